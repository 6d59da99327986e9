"""The codecs under comparison behind one interface; every size is that of a real file on disk.

An anchor (JPEG, WebP, AVIF, JPEG XL) is asked for *the largest quality whose file stays at or under the budget*. Where
even its smallest file is larger, that one is given, and ``Coded.bytes`` says so. Anchors' files are kept in a cache
keyed by the pixels, the settings and the versions of the libraries, so that a run for a new model codes only our own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from PIL import Image, features

from sdrt_metrics.fidelity import Rgb

if TYPE_CHECKING:
    import sdrt


@dataclass(frozen=True)
class Coded:
    """One picture coded for one budget: a file on disk, its size in bytes, and the setting that made it."""

    path: Path
    bytes: int
    setting: str


class BenchCodec(Protocol):
    """``name``: in CSV and on the command line; ``title``: for people; ``suffix`` of its files, with the dot."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def suffix(self) -> str: ...

    def encode(self, rgb: Rgb, budget_bytes: int) -> Coded:
        """At most ``budget_bytes``, or else the smallest file that the codec can make."""
        ...

    def decode(self, path: Path) -> Rgb: ...


def fingerprint(rgb: Rgb) -> str:
    """24 hex digits that name these pixels."""
    return hashlib.sha256(repr(rgb.shape).encode() + np.ascontiguousarray(rgb).tobytes()).hexdigest()[:24]


def largest_within(
    size_bytes: Callable[[int], int], low: int, high: int, budget_bytes: int, known: Mapping[int, int]
) -> int:
    """The largest quality in [low, high] whose size is at or under the budget; ``low`` where none is.

    ``known``: sizes at qualities that were tried before. Sizes are taken to grow with quality, nearly by a constant
    factor per step: the next try is where that line crosses the budget, since one AVIF file can take seconds.
    """
    sizes = {q: n for q, n in known.items() if low <= q <= high}
    while True:
        fits = max((q for q, n in sizes.items() if n <= budget_bytes), default=low - 1)
        too_large = min((q for q, n in sizes.items() if n > budget_bytes and q > fits), default=high + 1)
        if too_large - fits == 1:
            return max(fits, low)
        if fits < low:
            guess = low if too_large <= low + 8 else min((low + too_large) // 2, low + 14)
        elif too_large > high:
            guess = fits + max((high + 1 - fits) // 4, 2)
        else:
            slope = (math.log(sizes[too_large]) - math.log(sizes[fits])) / (too_large - fits)
            guess = fits + int((math.log(budget_bytes) - math.log(sizes[fits])) / max(slope, 1e-6))
        guess = min(max(guess, fits + 1), too_large - 1)
        sizes[guess] = size_bytes(guess)


@dataclass(frozen=True)
class PillowCodec:
    """A codec that Pillow writes. ``options`` are the save options besides quality; ``library`` names its version."""

    name: str
    title: str
    suffix: str
    format: str
    options: tuple[tuple[str, object], ...]
    qualities: tuple[int, int]  # the coarsest and the finest, both inclusive
    library: str
    cache: Path

    def bytes_at(self, rgb: Rgb, quality: int) -> bytes:
        target = io.BytesIO()
        Image.fromarray(rgb).save(target, self.format, quality=quality, **dict(self.options))
        return target.getvalue()

    def _folder(self, rgb: Rgb) -> Path:
        settings = f"{self.format} {self.options} {self.library}"
        return self.cache / self.name / hashlib.sha256(settings.encode()).hexdigest()[:8] / fingerprint(rgb)

    def encode(self, rgb: Rgb, budget_bytes: int) -> Coded:
        folder = self._folder(rgb)
        folder.mkdir(parents=True, exist_ok=True)

        def path_at(quality: int) -> Path:
            path = folder / f"q{quality:03d}{self.suffix}"
            if not path.exists():
                # Two runs may share the cache: a file appears whole or not at all.
                part = path.with_suffix(f".{np.random.default_rng().integers(2**32)}.part")
                part.write_bytes(self.bytes_at(rgb, quality))
                part.replace(path)
            return path

        known = {int(p.stem[1:]): p.stat().st_size for p in folder.glob(f"q*{self.suffix}")}
        quality = largest_within(lambda q: path_at(q).stat().st_size, *self.qualities, budget_bytes, known)
        return Coded(path_at(quality), path_at(quality).stat().st_size, f"q{quality}")

    def decode(self, path: Path) -> Rgb:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))


def model_words(model: str | None) -> str:
    """What our codec with this pack is called in tables; "sdrt" with the default pack, whichever that is."""
    return "sdrt" if model is None else f"sdrt {Path(model).name}"


class SdrtCodec:
    """One of our packs through the public API: ``target_bytes`` in, a real file out, decoded from that file.

    ``resampling`` and ``protect`` are those of ``Codec.encode``. Nothing is cached: our files change with every change
    of the code.
    """

    suffix = ".sdl"

    def __init__(
        self,
        model: str | None,
        folder: Path,
        *,
        threads: int | None = None,
        resampling: int | None = None,
        protect: sdrt.Protect = "auto",
    ) -> None:
        self.title = model_words(model) + ("" if resampling is None else f" resampling={resampling}")
        self.title += "" if protect == "auto" else f" protect={protect}"
        self._protect: sdrt.Protect = protect
        self.name = self.title.replace(" ", "-")
        self._model = model
        self._resampling = cast("sdrt.Resampling | None", resampling)  # encode refuses what it is not
        self._threads = threads
        self._folder = folder / self.name
        self._codec: sdrt.Codec | None = None

    def _loaded(self) -> sdrt.Codec:
        import sdrt

        if self._codec is None:
            self._codec = sdrt.Codec(model=self._model, threads=self._threads)
        return self._codec

    def _encode(self, rgb: Rgb, *, target_bytes: int | None = None, quality: float | None = None) -> bytes:
        return self._loaded().encode(
            Image.fromarray(rgb),
            target_bytes=target_bytes,
            quality=quality,
            resampling=self._resampling,
            protect=self._protect,
        )

    def encode(self, rgb: Rgb, budget_bytes: int) -> Coded:
        import sdrt

        setting = f"target {budget_bytes}"
        try:
            data = self._encode(rgb, target_bytes=budget_bytes)
        except sdrt.UnsupportedError:  # the budget is below the smallest file
            setting = "quality 0"
            data = self._encode(rgb, quality=0)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{fingerprint(rgb)}-{budget_bytes}{self.suffix}"
        path.write_bytes(data)
        return Coded(path, path.stat().st_size, setting)

    def decode(self, path: Path) -> Rgb:
        return np.asarray(self._loaded().decode(path).convert("RGB"))


def anchors(cache: Path) -> dict[str, PillowCodec]:
    """The anchors that this Pillow can write, by name. JPEG XL needs the package pillow-jxl-plugin."""
    import PIL

    def codec(
        name: str, title: str, form: str, library: str, qualities: tuple[int, int], **options: object
    ) -> PillowCodec:
        suffix = {"JPEG": ".jpg"}.get(form, f".{form.lower()}")
        versions = f"Pillow {PIL.__version__}, {library}"
        return PillowCodec(name, title, suffix, form, tuple(options.items()), qualities, versions, cache)

    jpeg_library = f"libjpeg-turbo {features.version_feature('libjpeg_turbo')}"
    found = [codec("jpeg", "JPEG", "JPEG", jpeg_library, (1, 95), optimize=True, progressive=True)]
    if features.check("webp"):
        found.append(codec("webp", "WebP", "WEBP", f"libwebp {features.version('webp')}", (0, 100), method=6))
    if features.check("avif"):
        found.append(codec("avif", "AVIF", "AVIF", f"libavif {features.version('avif')}", (0, 100), speed=4))
    if importlib.util.find_spec("pillow_jxl") is not None:
        importlib.import_module("pillow_jxl")  # registers the format with Pillow
        library = f"pillow-jxl-plugin {importlib.metadata.version('pillow-jxl-plugin')}"
        found.append(codec("jxl", "JPEG XL", "JXL", library, (0, 99), effort=7))
    return {c.name: c for c in found}
