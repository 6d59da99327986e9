"""Graphs: the devices that run them, and tiles that keep their memory bounded. The only home of engines."""
