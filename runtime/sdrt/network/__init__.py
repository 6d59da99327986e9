"""Runs graphs on devices, and large pictures in tiles of bounded memory. The only room that imports engines."""
