"""Where the faces are: boxes around hairline, chin and cheeks, found by eye once and checked as crops.

``portraits`` are the eight of ../shared/data/hard; ``others`` are those of Kodak that are 60 pixels or more (04, 15,
the statue of 17, the small one of 18), and the astronaut of the demo, who comes with the repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.places import DATA, PHOTOS
from sdrt_metrics.fidelity import Rgb


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int

    def inside(self, picture: Rgb) -> Rgb:
        """The part of a picture (H, W, 3) in the box, a view."""
        view: Rgb = picture[self.top : self.top + self.height, self.left : self.left + self.width]
        return view

    def outside(self, picture: Rgb, reference: Rgb) -> Rgb:
        """``picture`` with the pixels of ``reference`` in the box: what is wrong there does not count."""
        result: Rgb = picture.copy()
        self.inside(result)[:] = self.inside(reference)
        return result


@dataclass(frozen=True)
class Face:
    """``picture``: its path; ``group``: "portraits" or "others"."""

    picture: Path
    group: str
    box: Box


FACES = (
    Face(DATA / "hard" / "face-01.png", "portraits", Box(152, 124, 210, 256)),
    Face(DATA / "hard" / "face-02.png", "portraits", Box(156, 92, 210, 288)),
    Face(DATA / "hard" / "face-03.png", "portraits", Box(150, 84, 238, 288)),
    Face(DATA / "hard" / "face-04.png", "portraits", Box(124, 76, 276, 320)),
    Face(DATA / "hard" / "face-05.png", "portraits", Box(140, 120, 236, 260)),
    Face(DATA / "hard" / "face-06.png", "portraits", Box(150, 60, 236, 332)),
    Face(DATA / "hard" / "face-07.png", "portraits", Box(138, 106, 212, 266)),
    Face(DATA / "hard" / "face-08.png", "portraits", Box(132, 136, 252, 262)),
    Face(DATA / "kodak" / "04.png", "others", Box(112, 236, 280, 336)),
    Face(DATA / "kodak" / "15.png", "others", Box(366, 0, 346, 440)),
    Face(DATA / "kodak" / "17.png", "others", Box(160, 150, 144, 150)),
    Face(DATA / "kodak" / "18.png", "others", Box(250, 158, 68, 82)),
    Face(PHOTOS / "astronaut.webp", "others", Box(174, 70, 110, 116)),
)
