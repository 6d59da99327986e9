"""Metadata of a picture <-> ancillary chunks of a file, by the table ``ITEMS``."""

from __future__ import annotations

from dataclasses import replace

from sdrt.container import sdl
from sdrt.limits import MAX_ANCILLARY_BYTES
from sdrt.pixels.metadata import ITEMS, Metadata, is_utf8


def storable(metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    """The items that a file can hold, and a note for a person on each that it cannot: none may cost the picture."""
    notes = {}
    for name, item in ITEMS.items():
        data = getattr(metadata, name) or b""
        if len(data) > MAX_ANCILLARY_BYTES:
            notes[name] = f"{name.upper()} has {len(data)} bytes, at most {MAX_ANCILLARY_BYTES} fit: not kept"
        elif item.utf8 and not is_utf8(data):
            notes[name] = f"{name.upper()} is not UTF-8: not kept"
    return replace(metadata, **dict.fromkeys(notes)), tuple(notes.values())


def to_chunks(metadata: Metadata) -> tuple[sdl.Chunk, ...]:
    """One chunk for each item that is present."""
    items = {item.chunk: getattr(metadata, name) for name, item in ITEMS.items()}
    return tuple(sdl.Chunk(kind, data) for kind, data in items.items() if data is not None)


def from_chunks(chunks: tuple[sdl.Chunk, ...]) -> Metadata:
    """The items in ``chunks``; other chunks are ignored."""
    data = {chunk.kind: chunk.data for chunk in chunks}
    return Metadata(**{name: data.get(item.chunk) for name, item in ITEMS.items()})
