"""Names of well-known latent spaces. A file stores only the identity."""

from __future__ import annotations

NAMES = {
    "e17fefd1": "sd1: Stable Diffusion 1 and 2, TAESD",
    "dd2edbb5": "sdxl: Stable Diffusion XL",
    "bc63d90b": "sd3: Stable Diffusion 3 and 3.5",
    "4acf8b44": "flux1: FLUX.1",
    "63fa8689": "flux2: FLUX.2",
    "f2cb60e4": "sana: Sana's DC-AE",
    "7148347a": "hunyuanimage21: HunyuanImage 2.1",
    "9947b988": "wan21: Wan 2.1 and Qwen-Image",
    "d2625dff": "qwenimage21: Qwen-Image 2.1",
    "d0ba8b30": "tiny of sdrt 0.6 to 0.8",
    "ab6afd5a": "tiny of sdrt 0.9 and 0.10",
    "19f5fa4c": "tiny of sdrt 0.11",
}
"""Identity -> id of the space and the models that use it. ``export/sdrt_export/spaces.py`` recognizes them."""


def in_words(identity: bytes) -> str:
    """The identity's eight digits and, where there is one, the space's name: ``e17fefd1 (sd1: ...)``."""
    name = NAMES.get(identity.hex())
    return identity.hex() if name is None else f"{identity.hex()} ({name})"
