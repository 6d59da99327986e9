"""Latents as arrays and in the files of other programs: caches of trainers, ComfyUI, tars of many."""
