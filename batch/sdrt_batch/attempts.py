"""Records which picture a worker processes, so that one that crashes its process repeatedly is given up.

Ray starts an ended worker anew and hands it the same work for ever. So each unit has a small file, for as long as it is
being done, with a line for each picture that was begun and an empty line for each attempt.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

MAX_ENDS = 3
"""A picture at which the process ended so often is not begun again."""
FOLDER = "_attempts"


class Attempts:
    """The pictures that were begun in one unit. Each method may raise OSError."""

    def __init__(self, destination: str, unit: str) -> None:
        self._path = Path(destination) / FOLDER / hashlib.sha256(os.fsencode(unit)).hexdigest()[:32]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        earlier = self._path.read_text("utf-8").split("\n\n") if self._path.exists() else []
        last = [attempt.strip("\n").rpartition("\n")[2] for attempt in earlier]
        self.ends = Counter(json.loads(line) for line in last if line.endswith('"'))
        self._file = self._path.open("a", encoding="utf-8")
        self._file.write("\n\n")

    def begin(self, key: str) -> bool:
        """Records that ``key`` comes next. False: it has ended the process MAX_ENDS times and must be skipped."""
        if self.ends[key] >= MAX_ENDS:
            return False
        self._file.write(json.dumps(key) + "\n")
        self._file.flush()
        return True

    def finish(self) -> None:
        """The unit is done."""
        self._file.close()
        self._path.unlink(missing_ok=True)
