"""The learning rate over a stage."""

from __future__ import annotations

import math

_MIN = 0.02


def rate_factor(step: int, steps: int, decay: float, warm_up: int) -> float:
    """What the rate is multiplied by: a warm-up, a plateau, and a cosine down to a fiftieth over the last ``decay``."""
    start = steps * (1 - decay)
    fallen = 0.0 if step < start else min(1.0, (step - start) / max(1.0, steps - start))
    return min(1.0, (step + 1) / warm_up) * (_MIN + (1 - _MIN) * 0.5 * (1 + math.cos(math.pi * fallen)))
