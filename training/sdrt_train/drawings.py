"""Drawn training crops: what photographs alone do not teach.

Flat colors, ramps, saturated shapes, line art and rendered type. Each is a function of a random generator and a size.
Type uses the TrueType fonts below /usr/share/fonts (Debian: fonts-dejavu-core, fonts-liberation, fonts-freefont-ttf),
or below the folder that the environment variable SDRT_FONTS names; where there are none it uses Pillow's own.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Random = np.random.Generator
FONTS_VARIABLE = "SDRT_FONTS"
_LETTERS = string.ascii_letters + string.digits + ".,:;!?()[]{}<>/=+-*&%$#@"


def random_color(random: Random) -> tuple[int, int, int]:
    """A color: one in three from anywhere, one in three a corner of the cube or near one, one in three nearly gray."""
    kind = random.integers(3)
    if kind == 0:
        color = random.integers(0, 256, 3)
    elif kind == 1:
        color = np.clip(255 * random.integers(0, 2, 3) + random.integers(-40, 41, 3) * random.integers(0, 2), 0, 255)
    else:
        color = np.clip(random.integers(0, 256) + random.integers(-12, 13, 3), 0, 255)
    return tuple(int(value) for value in color)  # type: ignore[return-value]


def font_files() -> tuple[str, ...]:
    """The fonts that type is set in, in the order of their paths: those that have Latin letters."""
    return _fonts_below(os.environ.get(FONTS_VARIABLE, "/usr/share/fonts"))


@lru_cache
def _fonts_below(folder: str) -> tuple[str, ...]:
    return tuple(sorted(str(path) for path in Path(folder).rglob("*.ttf") if _has_letters(path)))


def _has_letters(font: Path) -> bool:
    """Whether it draws our letters: most fonts of a full system have one box for all of them."""
    try:
        drawn = {bytes(ImageFont.truetype(font, 16).getmask(letter)) for letter in "AXg8"}
    except OSError:  # colored bitmaps of one size, or no font
        return False
    return len(drawn) == 4


def _font(number: int, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    files = font_files()
    return _read_font(files[number % len(files)] if files else "", size_px)


@lru_cache(maxsize=512)
def _read_font(file: str, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(file, size_px) if file else ImageFont.load_default(size_px)


def flat(random: Random, size_px: int) -> np.ndarray:
    """One color everywhere, or two or three in upright rectangles."""
    picture = np.empty((size_px, size_px, 3), np.uint8)
    picture[:] = random_color(random)
    for _ in range(int(random.integers(0, 3))):
        y, x = random.integers(0, size_px, 2)
        picture[y:, x:] = random_color(random)
    return picture


def ramp(random: Random, size_px: int) -> np.ndarray:
    """A linear or radial transition between two colors."""
    y, x = np.mgrid[0:size_px, 0:size_px] / size_px - 0.5
    if random.random() < 0.3:
        at = np.hypot(y - random.uniform(-0.5, 0.5), x - random.uniform(-0.5, 0.5))
    else:
        angle = random.uniform(0, 2 * np.pi)
        at = (np.cos(angle) * x + np.sin(angle) * y) * random.uniform(0.3, 1) + 0.5
    first, second = np.array(random_color(random), float), np.array(random_color(random), float)
    mixed = first + (second - first) * np.clip(at, 0, 1)[..., None]
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _words(random: Random, count: int) -> str:
    lengths = random.integers(1, 10, count)
    return " ".join("".join(random.choice(list(_LETTERS), int(length))) for length in lengths)


def type_page(random: Random, size_px: int) -> np.ndarray:
    """Lines of type, one font and size or several, on a flat ground or a ramp."""
    ground = ramp(random, size_px) if random.random() < 0.2 else flat(random, size_px)
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    ink = random_color(random)
    if random.random() < 0.5:  # mostly legible: ink far from the ground
        ink = (0, 0, 0) if int(ground[0, 0].astype(int).sum()) > 380 else (255, 255, 255)
    number, font_px = int(random.integers(1 << 30)), int(random.integers(8, 40))
    y = float(-random.integers(0, font_px))
    while y < size_px:
        if random.random() < 0.1:
            number, font_px = int(random.integers(1 << 30)), int(random.integers(8, 40))
        if random.random() < 0.15:
            ink = random_color(random)
        x = float(random.integers(-font_px, size_px // 3))
        draw.text((x, y), _words(random, 1 + 2 * size_px // font_px // 3), fill=ink, font=_font(number, font_px))
        y += font_px * random.uniform(1.05, 1.6)
    return np.array(image, np.uint8)


def shapes(random: Random, size_px: int) -> np.ndarray:
    """Lines, boxes, ellipses and polygons, drawn at twice the size and reduced, so that edges are smooth."""
    image = Image.fromarray(flat(random, 2 * size_px))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(3, 25))):
        points = [tuple(p) for p in random.integers(-size_px // 4, 2 * size_px + size_px // 4, (4, 2)).tolist()]
        width, color, kind = int(random.integers(1, 12)), random_color(random), random.integers(4)
        if kind == 0:
            draw.line(points[: int(random.integers(2, 5))], fill=color, width=width)
        elif kind == 1:
            draw.polygon(points, fill=color)
        else:
            (left, right), (top, bottom) = sorted((points[0][0], points[1][0])), sorted((points[0][1], points[1][1]))
            box = (left, top, right, bottom)
            fill = color if random.random() < 0.5 else None
            (draw.rectangle if kind == 2 else draw.ellipse)(box, fill=fill, outline=color, width=width)
    return np.array(image.resize((size_px, size_px), Image.Resampling.BOX), np.uint8)


_KINDS: tuple[tuple[Callable[[Random, int], np.ndarray], float], ...] = (
    (flat, 0.2),
    (ramp, 0.15),
    (type_page, 0.4),
    (shapes, 0.25),
)


def drawing(random: Random, size_px: int) -> np.ndarray:
    """A drawn crop, uint8 (size, size, 3)."""
    kinds, weights = zip(*_KINDS, strict=True)
    chosen: Callable[[Random, int], np.ndarray] = kinds[int(random.choice(len(kinds), p=weights))]
    return chosen(random, size_px)
