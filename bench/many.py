"""Many pictures: a loop over them against ``encode_many`` and ``decode_many``, and batches against single runs.

    python -m bench.many               # the 20 shipped photographs, two minutes on two slow cores
    python -m bench.many --workers 4 --rounds 9

Ratios are to the first line of each table, a loop with an engine that has all cores: 0.5x is twice as fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np

from bench.contest import Contestant, race, table
from bench.places import PHOTOS
from sdrt import Codec
from sdrt.network.engine import Engine
from sdrt.packs.search import load_pack
from sdrt.parallel import usable_cores
from sdrt.pixels.load import load

PICTURES = sorted(PHOTOS.glob("*.webp"))
BUDGET_BPP = 0.152
BATCH = 4
SIDE_PX = 512
LIMIT_S = 60


def encoders(workers: int) -> list[Contestant]:
    """Each reads and encodes every photograph at BUDGET_BPP."""
    all_cores, one_core = Codec(), Codec(threads=1)

    def loop() -> None:
        for path in PICTURES:
            all_cores.encode(path, target_bpp=BUDGET_BPP)

    def many(codec: Codec) -> None:
        for _ in codec.encode_many(PICTURES, workers=workers, target_bpp=BUDGET_BPP):
            pass

    return [
        Contestant(f"encode {len(PICTURES)} photographs in a loop", loop),
        Contestant(f"encode_many, {workers} workers", partial(many, all_cores)),
        Contestant(f"encode_many, {workers} workers, threads=1", partial(many, one_core)),
    ]


def decoders(workers: int) -> list[Contestant]:
    """Each decodes the files of all photographs."""
    all_cores, one_core = Codec(), Codec(threads=1)
    files = list(all_cores.encode_many(PICTURES, target_bpp=BUDGET_BPP))

    def loop() -> None:
        for file in files:
            all_cores.decode(file)

    def many(codec: Codec) -> None:
        for _ in codec.decode_many(files, workers=workers):
            pass

    return [
        Contestant(f"decode {len(files)} files in a loop", loop),
        Contestant(f"decode_many, {workers} workers", partial(many, all_cores)),
        Contestant(f"decode_many, {workers} workers, threads=1", partial(many, one_core)),
    ]


def batches() -> list[Contestant]:
    """The encoder's graph on BATCH pictures of one size: one after another, and in one run."""
    engine = Engine(load_pack("tiny").encoder_path(), device="cpu")
    pixels = load(PICTURES[0]).rgb[:SIDE_PX, :SIDE_PX].transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    batch = np.repeat(pixels.astype(np.float32), BATCH, axis=0)

    def singly() -> None:
        for item in range(BATCH):
            engine.run(batch[item : item + 1])

    return [
        Contestant(f"encoder network, {BATCH} pictures singly", singly),
        Contestant("the same in one batch", partial(engine.run, batch)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.many", description="A loop against encode_many.")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    for contestants in (encoders(options.workers), decoders(options.workers), batches()):
        print(table(race(contestants, options.rounds, LIMIT_S)), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
