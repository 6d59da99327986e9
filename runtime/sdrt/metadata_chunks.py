"""Metadata of a picture <-> ancillary chunks of a file, by the table ``ITEMS``."""

from __future__ import annotations

from sdrt.container import sdl
from sdrt.pixels.metadata import ITEMS, Metadata


def to_chunks(metadata: Metadata) -> tuple[tuple[sdl.Chunk, ...], tuple[str, ...]]:
    """One chunk for each item that a file can hold, and a note for a person on each that it cannot: none may cost the
    picture."""
    chunks, notes = [], []
    for name, item in ITEMS.items():
        data = getattr(metadata, name)
        if data is None:
            continue
        why = item.why_not(data)
        if why is None:
            chunks.append(sdl.Chunk(item.chunk, data))
        else:
            notes.append(f"{name.upper()} {why}: not kept")
    return tuple(chunks), tuple(notes)


def from_chunks(chunks: tuple[sdl.Chunk, ...]) -> Metadata:
    """The items in ``chunks``. Other chunks are ignored, and so are items that no file should hold."""
    data = {chunk.kind: chunk.data for chunk in chunks}
    found = {name: data[item.chunk] for name, item in ITEMS.items() if item.chunk in data}
    return Metadata(**{name: held for name, held in found.items() if ITEMS[name].why_not(held) is None})
