"""Faces, by the detector that OpenCV ships inside its wheel: Viola and Jones, "Rapid Object Detection using a Boosted
Cascade of Simple Features" (CVPR 2001). The only module that imports cv2; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdrt.errors import UnsupportedError
from sdrt.pixels.picture import Crop, Pixels

_CASCADE = "haarcascade_frontalface_default.xml"
_SMALLEST_SHARE = 10
"""Smallest face to detect, as a share of the picture's shorter side: most smaller detections are false."""
_NEIGHBORS = 6
"""Overlapping detections that make a face; OpenCV's default of 3 finds faces in leaves."""
_MAX_SIDE_PX = 1024
"""Larger pictures are subsampled to at most this side."""
_MISSING = "finding faces needs OpenCV 4: pip install 'sdrt[faces]'"
_CHIN = 0.15
"""A detection is extended by this share of its side upwards and downwards: the square ends at brow and lip."""


def find_faces(rgb: Pixels) -> list[Crop]:
    """Boxes (x, y, width, height) of the faces in uint8 (H, W, 3), each within the picture.

    Raises UnsupportedError where OpenCV, or its cascade, is not installed.
    """
    try:
        import cv2
        import cv2.data

        cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / _CASCADE))
    except (ImportError, AttributeError):  # OpenCV 5 has no cascades
        raise UnsupportedError(_MISSING) from None
    if cascade.empty():
        raise UnsupportedError(_MISSING)
    height_px, width_px = rgb.shape[:2]
    stride = -(-max(height_px, width_px) // _MAX_SIDE_PX)
    gray = cv2.cvtColor(np.ascontiguousarray(rgb[::stride, ::stride]), cv2.COLOR_RGB2GRAY)
    smallest = max(24, min(gray.shape) // _SMALLEST_SHARE)
    found = []
    for box in cascade.detectMultiScale(gray, 1.1, _NEIGHBORS, minSize=(smallest, smallest)):
        x, y, wide, high = (int(value) * stride for value in box)
        top, bottom = max(0, y - int(_CHIN * high)), min(height_px, y + high + int(_CHIN * high))
        found.append((x, top, min(width_px - x, wide), bottom - top))
    return found
