"""Torch world: photographs -> the weights of models/tiny."""
