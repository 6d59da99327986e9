"""The truth map in the output of ``sdrt info``."""

from __future__ import annotations

from sdrt.container import sdl, truth_map


def truth_of(data: bytes, *, as_json: bool) -> object:
    """The share of each class, for JSON or for people. Raises CorruptError for a broken map, and as ``sdl.unpack``."""
    file = sdl.unpack(data)
    coded = file.chunk(sdl.TRUTH)
    if coded is None:
        return None if as_json else "no map: encode with --truth"
    shares = truth_map.shares(truth_map.decode_truth_map(coded, file.height_px, file.width_px))
    return shares if as_json else ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
