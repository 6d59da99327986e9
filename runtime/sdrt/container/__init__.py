"""Bytes: the .sdl file and what lies in its chunks, and .npz files. ``sdl`` and ``source`` need only the standard
library."""
