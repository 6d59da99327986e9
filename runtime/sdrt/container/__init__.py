"""Bytes: the .sdl file and the alpha plane inside it. ``sdl`` needs only the standard library."""
