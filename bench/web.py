"""The browser's decoder against the native one: seconds of processor time for a picture of 512 x 512 pixels.

``taskset -c 1 python -m bench.web``: both in one run, the native decoder with one thread, WebAssembly with one thread.
Processor time and not the clock's, so that other work on the machine does not count; the browser's is that of all of
its processes. It needs node, Chromium and ``npm ci --prefix web``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from sdrt.codec import Codec

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "bench" / "photos" / "astronaut.webp"
RUNS = 12


def native_s(codec: Codec, data: bytes) -> float:
    """Seconds of a decoding, the least of several."""
    found = []
    for _ in range(RUNS):
        before = time.process_time()
        codec.decode(data)
        found.append(time.process_time() - before)
    return min(found)


def browser_s(folder: Path, pack: Path) -> tuple[float, float]:
    """Seconds of the first decoding, with all that is loaded for it, and of a later one, the least of several."""
    case = {"url": "/own/photo.sdl", "quiet": True}
    job = {"pack": str(pack), "folders": {"own": str(folder)}, "cases": [case] * RUNS, "pages": []}
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    done = subprocess.run(
        ["node", ROOT / "web" / "test" / "browser.mjs", chromium],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = [case["cpu_s"] for case in json.loads(done.stdout)["cases"]]
    return seconds[0], min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pack", type=Path, default=ROOT / "models" / "tiny")
    pack = parser.parse_args().pack
    with Codec(pack, device="cpu", threads=1) as codec, TemporaryDirectory() as name:
        with Image.open(PHOTO) as image:
            data = codec.encode(image.convert("RGB").crop((0, 0, 512, 512)))
        (Path(name) / "photo.sdl").write_bytes(data)
        native = native_s(codec, data)
        first, later = browser_s(Path(name), pack)
    print(f"{len(data)} bytes, {codec.used_precision}")
    print(f"native   {native:.3f} s")
    print(f"browser  {later:.3f} s, {later / native:.1f} times the native time")
    print(f"browser  {first:.2f} s for the first picture, model and engine loaded")


if __name__ == "__main__":
    main()
