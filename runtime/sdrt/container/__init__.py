"""Bytes: the .sdl file and the alpha plane inside it. ``sdl`` needs the standard library alone."""
