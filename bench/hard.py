"""Pictures that hurt: can the type on screens be read, and are faces right? Ours and AVIF at equal bytes.

    python -m bench.hard                                  # 11 screens and 13 faces at 0.152 and 0.30 bpp
    python -m bench.hard --codecs sdrt --no-page          # ours alone
    python -m bench.hard --no-faces                       # screens only
    python -m bench.hard --no-faces --level-with avif     # where AVIF is over the budget, all get its bytes
    python -m bench.hard --model models/tiny --model models/other
    python -m bench.hard --codecs sdrt --protect none --protect auto --protect faces

Screens are judged as a whole and by the character error rate of what Tesseract reads in them. Faces are judged inside
their boxes, cut out, and outside them: the whole picture with the original's pixels in the box. Every file holds the
whole picture, and its budget is the whole picture's. Writes OUT/summary.md and OUT/index.html.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import commandline, reading, record
from bench.codecs import BenchCodec
from bench.faces import FACES, Face
from bench.places import DATA, OUT
from bench.rd import load, measure_image
from bench.row import Row
from bench.scores import Scores
from sdrt_metrics.fidelity import MS_SSIM_MIN_SIDE_PX, Rgb
from sdrt_metrics.meter import METRICS

BUDGETS_BPP = (0.152, 0.30)
DEFAULT_METRICS = ("psnr", "msssim", "alex", "dists")
CER = "cer"
PARTS = {
    "screens": "Screens",
    "portraits": "Portraits, inside the face",
    "portraits, rest": "Portraits, the rest",
    "others": "Other faces, inside the face",
    "others, rest": "Other faces, the rest",
}


@dataclass(frozen=True)
class Part:
    """One part (a key of PARTS) of one coded picture. ``scores``: by metric, without those that it is too small for."""

    name: str
    row: Row
    scores: dict[str, float]


def judge_screen(rows: Sequence[Row], reference: Rgb) -> list[Part]:
    """The scores of the rows, which are of one screen, and its character error rates where Tesseract is installed."""
    truth = reading.text_in(reference) if reading.tesseract() else ""
    parts = []
    for row in rows:
        rate = {CER: reading.error_rate(reading.text_in(row.decoded()), truth)} if truth else {}
        parts.append(Part("screens", row, rate | row.scores))
    return parts


def judge_face(face: Face, rows: Sequence[Row], reference: Rgb, names: Sequence[str], scores: Scores) -> list[Part]:
    """Each of the rows, which are of one picture, inside the box and outside it."""
    pictures = [row.decoded() for row in rows]
    parts = []
    for part, crops, target in (
        (face.group, [face.box.inside(p) for p in pictures], face.box.inside(reference)),
        (f"{face.group}, rest", [face.box.outside(p, reference) for p in pictures], reference),
    ):
        small = min(target.shape[:2]) < MS_SSIM_MIN_SIDE_PX
        measured = scores.measure(crops, target, [n for n in names if not (small and n == "msssim")])
        parts += [Part(part, row, here) for row, here in zip(rows, measured, strict=True)]
    return parts


def report(parts: Sequence[Part], names: Sequence[str]) -> str:
    """Markdown: a table for each part and budget, a line for each codec."""
    titles = {CER: "character errors"} | {n: METRICS[n].title for n in names}
    digits = {CER: 3} | {n: METRICS[n].digits for n in names}
    lines: list[str] = []
    for part, title in PARTS.items():
        here = [p for p in parts if p.name == part]
        columns = [n for n in (CER, *names) if any(n in p.scores for p in here)]
        for budget in sorted({p.row.budget_bpp for p in here}):
            images = {p.row.image for p in here}
            lines += [f"{title}, at no more than {budget:g} bpp of the whole picture, means of {len(images)}:", ""]
            head = " | ".join(titles[n] for n in columns)
            lines += [f"| codec | bpp | {head} | over budget |", "|---" * (len(columns) + 3) + "|"]
            for codec in dict.fromkeys(p.row.codec for p in here):
                mine = [p for p in here if p.row.codec == codec and p.row.budget_bpp == budget]
                means = (f"{np.mean([p.scores[n] for p in mine if n in p.scores]):.{digits[n]}f}" for n in columns)
                over = sum(p.row.over for p in mine)
                figures = f"{np.mean([p.row.bpp for p in mine]):.4f} | {' | '.join(means)}"
                lines.append(f"| {mine[0].row.title} | {figures} | {f'{over} of {len(mine)}' if over else ''} |")
            lines.append("")
    if "msssim" in names and any("msssim" not in p.scores for p in parts):
        lines.append(f"MS-SSIM: means of the faces of at least {MS_SSIM_MIN_SIDE_PX} pixels.")
    return "\n".join(lines).rstrip()


def to_record(parts: Sequence[Part], names: Sequence[str], arguments: Sequence[str] | None) -> record.Record:
    """The parts as ``--record`` keeps them."""
    rows: list[record.Measurement] = [{"part": p.name, **p.row.fields, **p.scores} for p in parts]
    better = {"bytes": "lower", CER: "lower"} | record.directions(names)
    return record.make("hard", arguments, rows, groups=("part", "codec", "budget_bpp"), sample="image", better=better)


def measure(
    screens: Sequence[Path],
    faces: Sequence[Face],
    codecs: Sequence[BenchCodec],
    budgets_bpp: Sequence[float],
    *,
    names: Sequence[str],
    scores: Scores,
    level_with: str | None = None,
) -> tuple[list[Part], list[Row]]:
    """Everything: the judged parts, and the rows of whole pictures that they come from; ``level_with``: see ``rd``."""
    parts: list[Part] = []
    rows: list[Row] = []
    for path in screens:
        here = measure_image(path, codecs, budgets_bpp, names, scores, level_with=level_with)
        parts += judge_screen(here, load(path))
        rows += here
    for face in faces:
        here = measure_image(face.picture, codecs, budgets_bpp, names, scores, level_with=level_with)
        parts += judge_face(face, here, load(face.picture), names, scores)
        rows += here
    return parts, rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hard", description=(__doc__ or "").split("\n")[0])
    commandline.add(parser, bpp=BUDGETS_BPP, codecs="sdrt,avif", out=OUT / "hard", metrics=DEFAULT_METRICS)
    parser.add_argument("--limit", type=int, help="only the first so many screens and faces of each group")
    parser.add_argument("--no-faces", action="store_true", help="screens only")
    parser.add_argument("--level-with", metavar="CODEC", help="where its smallest file is over, all get its bytes")
    parser.add_argument("--no-page", action="store_true", help="tables only")
    options = parser.parse_args(arguments)
    names, budgets_bpp = commandline.metric_names(options), commandline.budgets_bpp(options)
    screens = sorted((DATA / "hard").glob("screen-*.png"))[: options.limit]
    faces = [face for face in FACES if face.picture.exists() and not options.no_faces]
    groups = [[face for face in faces if face.group == group][: options.limit] for group in ("portraits", "others")]
    faces = [face for group in groups for face in group]
    if not screens:
        print(f"no {DATA / 'hard'} here: screens and portraits are left out", file=sys.stderr)
    elif reading.tesseract() is None:
        print("tesseract is not installed: no character error rates (apt-get install tesseract-ocr)", file=sys.stderr)
    codecs = commandline.codecs(options)
    options.out.mkdir(parents=True, exist_ok=True)

    if options.level_with not in (None, *(codec.name for codec in codecs)):
        parser.error(f"--level-with {options.level_with}: not one of --codecs")
    parts, rows = measure(
        screens,
        faces,
        codecs,
        budgets_bpp,
        names=names,
        scores=commandline.scores(options),
        level_with=options.level_with,
    )
    text = report(parts, names)
    print(text)
    (options.out / "summary.md").write_text(text + "\n", encoding="utf-8")
    if not options.no_page:
        from bench import page

        images = {path.stem: path for path in [*screens, *(face.picture for face in faces)]}
        page.write(rows, names, images, options.out / "index.html")
    print(f"\nwritten to {options.out}")
    record.keep(to_record(parts, names, arguments), options)
    return 0


if __name__ == "__main__":
    raise SystemExit(commandline.run(main))
