"""The browser's codec against the native one: seconds of processor time for a picture of 512 x 512 pixels.

``taskset -c 1 python -m bench.web``: both in one run, the native codec with one thread, WebAssembly with one thread.
Processor time and not the clock's, so that other work on the machine does not count; the browser's is that of all of
its processes. It needs node, Chromium and ``npm ci --prefix web``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from sdrt.codec import Codec

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "bench" / "photos" / "astronaut.webp"
RUNS = 12


def native_s(work: Callable[[], object]) -> float:
    """Seconds of what the runtime does, the least of several."""
    found = []
    for _ in range(RUNS):
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return min(found)


def browser_s(folder: Path, pack: Path, case: dict[str, object]) -> tuple[float, float]:
    """Seconds of a case of web/test/browser.mjs the first time, with all that is loaded for it, and the least later."""
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
            photo = image.convert("RGB").crop((0, 0, 512, 512))
        data = codec.encode(photo, protect="none")
        (Path(name) / "photo.sdl").write_bytes(data)
        photo.save(Path(name) / "photo.png")
        print(f"{len(data)} bytes, {codec.used_precision}")
        print("seconds   native  browser  times  browser, the first, with all that is loaded")
        works: dict[str, tuple[Callable[[], object], dict[str, object]]] = {
            "decoding": (lambda: codec.decode(data), {"url": "/own/photo.sdl", "quiet": True}),
            "encoding": (
                lambda: codec.encode(photo, protect="none"),
                {"picture": "/own/photo.png", "pack": "/encoder.zip"},
            ),
        }
        for what, (work, case) in works.items():
            native, (first, later) = native_s(work), browser_s(Path(name), pack, case)
            print(f"{what}  {native:6.3f}  {later:7.3f}  {later / native:5.1f}  {first:.2f}")


if __name__ == "__main__":
    main()
