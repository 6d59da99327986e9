"""One self-contained page in which a person flips between codecs at equal bytes, crop by crop.

JPEG, WebP and AVIF files are embedded as they are: a browser decodes them itself. Pictures that it cannot decode (ours,
JPEG XL) and originals are embedded as WebP of quality 90. All figures on the page were measured on the pixels
that each codec's own decoder gave, before that.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.row import Row
from bench.summary import points
from sdrt_metrics.fidelity import Rgb
from sdrt_metrics.meter import METRICS

PAGE_LIMIT_BYTES = 25_000_000
RATES_BPP = (0.152, 0.08, 0.30)  # the most telling first: what does not fit the page is left off from the end
_BROWSER_TYPES = {".jpg": "image/jpeg", ".webp": "image/webp", ".avif": "image/avif", ".png": "image/png"}
_TEMPLATE = Path(__file__).with_name("page.html")


def _uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _webp(rgb: Rgb, quality: int = 90) -> str:
    target = io.BytesIO()
    Image.fromarray(rgb).save(target, "WEBP", quality=quality, method=4)
    return _uri(target.getvalue(), "image/webp")


def _thumb(rgb: Rgb) -> str:
    image = Image.fromarray(rgb)
    image.thumbnail((128, 128))
    return _webp(np.asarray(image), quality=70)


def _version(row: Row) -> dict[str, Any]:
    mime = _BROWSER_TYPES.get(row.coded.path.suffix)
    source = _uri(row.coded.path.read_bytes(), mime) if mime else _webp(row.decoded())
    return {
        "source": source,
        "bytes": row.coded.bytes,
        "bpp": row.bpp,
        "over": row.over,
        "scores": row.scores,
    }


def _choose_rates(rows: Sequence[Row], wanted_bpp: Sequence[float]) -> list[float]:
    there = sorted({row.budget_bpp for row in rows})
    return [bpp for bpp in wanted_bpp if bpp in there] or there[:1]


def build(rows: Sequence[Row], names: Sequence[str], images: Mapping[str, Path], rates_bpp: Sequence[float]) -> str:
    """The page as HTML. ``images``: name -> original; ``rates_bpp``: those of the rows' budgets to show."""
    rates = sorted(rates_bpp)
    titles = {row.codec: row.title for row in rows}
    pictures = []
    for name, path in images.items():
        with Image.open(path) as image:
            original = np.asarray(image.convert("RGB"))
        versions = [{r.codec: _version(r) for r in rows if r.image == name and r.budget_bpp == bpp} for bpp in rates]
        height, width = original.shape[:2]
        whole = {"source": _webp(original), "bytes": 0, "bpp": 24, "over": False, "scores": {}}
        place = {"name": name, "width": width, "height": height, "thumb": _thumb(original)}
        pictures.append({**place, "original": whole, "rates": versions})
    means: list[dict[str, Any]] = [{} for _ in rates]
    for point in points(rows, names):
        if point.budget_bpp in rates:
            means[rates.index(point.budget_bpp)][point.codec] = {"bpp": point.bpp, "scores": point.scores}
    data = {
        "images": pictures,
        "rates": rates,
        "start_rate": rates.index(rates_bpp[0]),
        "codecs": [{"name": "original", "title": "original"}, *({"name": n, "title": t} for n, t in titles.items())],
        "metrics": [
            {
                "name": name,
                "title": METRICS[name].title,
                "higher": METRICS[name].higher_is_better,
                "digits": min(METRICS[name].digits, 3),
            }
            for name in names
        ],
        "means": means,
    }
    # "<" inside JSON could close the script element.
    return _TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", json.dumps(data).replace("<", "\\u003c"))


def write(rows: Sequence[Row], names: Sequence[str], images: Mapping[str, Path], path: Path) -> None:
    """Writes the page with as many of RATES_BPP as stay under PAGE_LIMIT_BYTES, at least one."""
    rates = _choose_rates(rows, RATES_BPP)
    while True:
        html = build(rows, names, images, rates)
        if len(html) <= PAGE_LIMIT_BYTES or len(rates) == 1:
            break
        rates.pop()
    path.write_text(html, encoding="utf-8")
