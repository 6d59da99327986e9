"""Metadata of a picture <-> ancillary chunks of a file, by one table. CONTRIBUTING.md says what a new item takes."""

from __future__ import annotations

from sdrt.container import sdl
from sdrt.pixels.metadata import Metadata

KINDS = {"exif": sdl.EXIF, "xmp": sdl.XMP}
"""Field of ``Metadata`` -> kind of its chunk."""


def to_chunks(metadata: Metadata) -> tuple[sdl.Chunk, ...]:
    """One chunk for each item that is present."""
    items = {kind: getattr(metadata, name) for name, kind in KINDS.items()}
    return tuple(sdl.Chunk(kind, data) for kind, data in items.items() if data is not None)


def from_chunks(chunks: tuple[sdl.Chunk, ...]) -> Metadata:
    """The items in ``chunks``; other chunks are ignored."""
    data = {chunk.kind: chunk.data for chunk in chunks}
    return Metadata(**{name: data.get(kind) for name, kind in KINDS.items()})
