"""Metadata of a picture <-> ancillary chunks of a file, by the table ``ITEMS``."""

from __future__ import annotations

from sdrt.container import sdl
from sdrt.limits import MAX_ANCILLARY_BYTES
from sdrt.pixels.metadata import ITEMS, Metadata, is_utf8


def to_chunks(metadata: Metadata) -> tuple[tuple[sdl.Chunk, ...], tuple[str, ...]]:
    """One chunk for each item that a file can hold, and a note for a person on each that it cannot: none may cost the
    picture."""
    chunks, notes = [], []
    for name, item in ITEMS.items():
        data = getattr(metadata, name)
        if data is None:
            continue
        if len(data) > MAX_ANCILLARY_BYTES:
            notes.append(f"{name.upper()} has {len(data)} bytes, at most {MAX_ANCILLARY_BYTES} fit: not kept")
        elif item.utf8 and not is_utf8(data):
            notes.append(f"{name.upper()} is not UTF-8: not kept")
        else:
            chunks.append(sdl.Chunk(item.chunk, data))
    return tuple(chunks), tuple(notes)


def from_chunks(chunks: tuple[sdl.Chunk, ...]) -> Metadata:
    """The items in ``chunks``; other chunks are ignored."""
    data = {chunk.kind: chunk.data for chunk in chunks}
    return Metadata(**{name: data.get(item.chunk) for name, item in ITEMS.items()})
