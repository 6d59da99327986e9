"""Photographs -> folders that can be carried: ``python -m sdrt_train.shards PHOTOS --out FOLDER --limit-mb 60``.

A machine that takes 60 MB a call trains on one shard a call and resumes on the next. Every shard has the same
validation photographs, so its validation rows can be compared; the others are dealt out in a fixed random order.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from sdrt_train.data import list_photos


def deal(training: Sequence[Path], held: Sequence[Path], limit_bytes: int) -> list[list[Path]]:
    """Lists of photographs, each with all of ``held`` and at most ``limit_bytes`` in all; every photograph once.

    Raises ValueError where a photograph does not fit beside the held ones.
    """
    room = limit_bytes - sum(path.stat().st_size for path in held)
    order = list(training)
    random.Random(0).shuffle(order)
    shards: list[list[Path]] = []
    left = 0
    for path in order:
        size = path.stat().st_size
        if size > room:
            raise ValueError(f"{path} ({size:,} bytes) does not fit into {limit_bytes:,} beside the validation set")
        if size > left:
            shards.append(list(held))
            left = room
        shards[-1].append(path)
        left -= size
    return shards


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sdrt_train.shards", description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="gets shard-00, shard-01 and so on")
    parser.add_argument("--limit-mb", type=float, default=60.0, help="millions of bytes in one shard")
    parser.add_argument("--held", type=int, default=24, help="validation photographs in each shard")
    arguments = parser.parse_args()
    training, held = list_photos(arguments.photos)
    chosen = held[:: max(1, len(held) // arguments.held)][: arguments.held]
    try:
        shards = deal(training, chosen, int(arguments.limit_mb * 1e6))
        for number, shard in enumerate(shards):
            folder = arguments.out / f"shard-{number:02}"
            folder.mkdir(parents=True)
            for path in shard:
                shutil.copy2(path, folder)
            print(f"{folder}: {len(shard)} photographs, {sum(p.stat().st_size for p in shard):,} bytes")
    except (ValueError, OSError) as error:
        print(f"sdrt_train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
