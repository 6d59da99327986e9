"""One sheet that shows several versions of a picture side by side: whole, then the same crops at 2x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sdrt_metrics.fidelity import Rgb

_GAP_PX = 8
_LABEL_PX = 56
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Panel:
    """``title`` and ``detail``: the lines above the picture, (H, W, 3) uint8. All panels of a sheet are one size."""

    title: str
    detail: str
    picture: Rgb


def sheet(panels: Sequence[Panel], crops: Sequence[tuple[float, float]]) -> Image.Image:
    """One column per panel, one row for the whole picture and one for each crop at 2x.

    ``crops``: (left, top) as fractions of width and height; each is half the picture's width wide and 3/4 of that high.
    They are enlarged without smoothing, so that every pixel of a codec is seen as it is.
    """
    height, width = panels[0].picture.shape[:2]
    step = width + _GAP_PX
    crop_width = width // 2
    crop_height = min(crop_width * 3 // 4, height)
    corners = [(min(int(x * width), width - crop_width), min(int(y * height), height - crop_height)) for x, y in crops]
    total_height = _LABEL_PX + height + len(crops) * (_GAP_PX + 2 * crop_height)
    result = Image.new("RGB", (step * len(panels) - _GAP_PX, total_height), _PAPER)
    draw = ImageDraw.Draw(result)
    for column, panel in enumerate(panels):
        image = Image.fromarray(panel.picture)
        x, y = column * step, _LABEL_PX
        draw.text((x + 2, 2), panel.title, fill=_INK, font=ImageFont.load_default(24))
        draw.text((x + 2, 32), panel.detail, fill=_INK, font=ImageFont.load_default(16))
        result.paste(image, (x, y))
        y += height + _GAP_PX
        for left, top in corners:
            crop = image.crop((left, top, left + crop_width, top + crop_height))
            result.paste(crop.resize((2 * crop_width, 2 * crop_height), Image.Resampling.NEAREST), (x, y))
            y += 2 * crop_height + _GAP_PX
    return result
