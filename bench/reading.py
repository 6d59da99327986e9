"""Can the type in a picture be read? Character error rates by Tesseract (Debian: apt-get install tesseract-ocr).

The text read from a decoded picture is compared with the text read from the original: what Tesseract misreads in both
is not the codec's. Tesseract is not perfectly steady: a file that looks flawless may still have a small rate, so
compare codecs with each other, not with zero (`python -m bench.hard --codecs avif --bpp 3` shows how small).
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess

from PIL import Image

from sdrt_metrics.fidelity import Rgb

# The picture as one block of lines (--psm 6) at its own size: finding columns first (3) or enlarging it makes what is
# read jump under light compression.
_OPTIONS = ("--psm", "6", "-l", "eng", "--dpi", "96")


class ReadingError(RuntimeError):
    """Tesseract is not installed, or failed."""


def tesseract() -> str | None:
    """The path of the program; None where it is not installed."""
    return shutil.which("tesseract")


def text_in(rgb: Rgb) -> str:
    """What Tesseract reads in a picture, words separated by single spaces.

    Raises:
        ReadingError: the program is not installed, or fails; then with its last words.
    """
    program = tesseract()
    if program is None:
        raise ReadingError("tesseract is not installed (Debian: apt-get install tesseract-ocr)")
    page = io.BytesIO()
    Image.fromarray(rgb).save(page, "PNG", compress_level=1)
    command = [program, "stdin", "stdout", *_OPTIONS]
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}  # its threads gain nothing on pictures of this size
    done = subprocess.run(command, input=page.getvalue(), capture_output=True, check=False, env=environment)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()[-300:]
        raise ReadingError(f"tesseract ended with {done.returncode}: {words}")
    return " ".join(done.stdout.decode(errors="replace").split())


def edits(text: str, truth: str) -> int:
    """Insertions, deletions and substitutions of characters that turn one into the other (Levenshtein 1966)."""
    row = list(range(len(truth) + 1))
    for i, here in enumerate(text, 1):
        diagonal, row[0] = row[0], i
        for j, there in enumerate(truth, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (here != there))
    return row[-1]


def error_rate(text: str, truth: str) -> float:
    """Edits for each character of ``truth``; may exceed 1. Raises ValueError where ``truth`` has none."""
    if not truth:
        raise ValueError("there is no text to compare with")
    return edits(text, truth) / len(truth)
