"""The learning rate over a stage."""

from __future__ import annotations

import math

WARM_UP = 200
_LEAST = 0.02


def plateau_factor(step: int, steps: int, decay: float) -> float:
    """1, and a cosine from 1 to 0 over the last ``decay`` of a stage."""
    start = steps * (1 - decay)
    fallen = 0.0 if step < start else min(1.0, (step - start) / max(1.0, steps - start))
    return 0.5 * (1 + math.cos(math.pi * fallen))


def rate_factor(step: int, steps: int, decay: float) -> float:
    """What the rate is multiplied by: a warm-up, a plateau, and a cosine down to a fiftieth over the last ``decay``."""
    return min(1.0, (step + 1) / WARM_UP) * (_LEAST + (1 - _LEAST) * plateau_factor(step, steps, decay))
