"""Integers: latents become symbols and symbols become bytes. The only home of constriction."""
