"""``make golden``: rewrite the golden files. Only for a deliberate change of the format; old ones decode for ever."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tests import make_diseases, testpack
from tests.conftest import synthetic_photo
from tests.make_container_golden import write_container_files

from sdrt.codec import Codec

TESTS = Path(__file__).parent
PICTURES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "1x1": ((1, 1), {}),
    "1x999": ((999, 1), {}),
    "161x97-low": ((97, 161), {"target_bytes": 300}),
    "161x97-high": ((97, 161), {"quality": 100}),
    "161x97-alpha": ((97, 161), {"quality": 20}),
    "512x16-coarsest": ((16, 512), {"target_bytes": 90}),
    "161x97-half": ((97, 161), {"resampling": 2}),
}


def write_codec_files(folder: Path) -> None:
    """One .sdl a case, and expected.json with the integers' hash, the size and the mean colour."""
    folder.mkdir(parents=True, exist_ok=True)
    codec = Codec("testpack")
    expected = {}
    for name, (size_px, wishes) in PICTURES.items():
        rgb = synthetic_photo(*size_px)
        if name.endswith("alpha"):
            alpha = np.full(size_px, 255, np.uint8)
            alpha[10:50, 20:100] = 40
            rgb = np.dstack([rgb, alpha])
        data = codec.encode(rgb, **wishes)
        symbols, picture = codec.symbols(data), codec.decode(data)
        (folder / f"{name}.sdl").write_bytes(data)
        expected[f"{name}.sdl"] = {
            "shape": list(symbols.shape),
            "sha256": hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest(),
            "size_px": [picture.width, picture.height],
            "mean_rgb": [round(float(v), 2) for v in np.asarray(picture.convert("RGB")).reshape(-1, 3).mean(0)],
        }
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


def write_diseases() -> None:
    """The ill files of tests/diseases, made from two healthy ones."""
    rgb = synthetic_photo(16, 24)
    alpha = np.full((16, 24, 1), 255, np.uint8)
    alpha[4:9, 5:20] = 0
    codec = Codec("testpack")
    make_diseases.write(codec.encode(rgb), codec.encode(np.dstack([rgb, alpha])))


if __name__ == "__main__":
    os.environ["SDRT_MODELS"] = str(TESTS / "data")
    testpack.write(testpack.FOLDER)
    write_codec_files(TESTS / "golden" / "codec")
    write_container_files(TESTS / "golden")
    write_diseases()
