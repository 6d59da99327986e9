"""Mutated files against everything that reads foreign bytes: ``make fuzz``.

    python -m tests.fuzz                        # until Ctrl-C
    python -m tests.fuzz --count 1000000
    python -m tests.fuzz prior graph --cpu-s 60 # two targets, a minute
    python -m tests.fuzz prior --replay FILE    # once more, with its traceback

Needs Linux: it forks, limits memory and reads /proc.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz import (
    alphas,
    archives,
    containers,
    graphs,
    latent_files,
    manifests,
    patches,
    payloads,
    priors,
    step_maps,
    truth_maps,
)
from tests.fuzz.run import Settings, fuzz

TARGETS = {
    target.name: target
    for target in (
        containers.TARGET,
        alphas.TARGET,
        payloads.TARGET,
        priors.TARGET,
        manifests.TARGET,
        archives.TARGET,
        graphs.TARGET,
        step_maps.TARGET,
        patches.TARGET,
        latent_files.TARGET,
        truth_maps.TARGET,
    )
}


def main() -> int:
    """0 where there was no fault."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--count", type=int, help="stop after so many cases")
    parser.add_argument("--cpu-s", type=float, help="stop after so many CPU seconds")
    parser.add_argument("--seed", type=int, help="of all that is random; default: another each time")
    parser.add_argument("--keep", action="store_true", help="keep what has a new outcome in tests/fuzz/corpus")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="run these, of the one target named")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown or (options.replay and len(options.targets) != 1):
        parser.error(f"choose of {', '.join(TARGETS)}" + (", one to replay" if options.replay else ""))
    if options.replay:
        for path in options.replay:
            print(f"{path}: {TARGETS[options.targets[0]].outcome(path.read_bytes())}")
        return 0
    seed = time.time_ns() if options.seed is None else options.seed
    settings = Settings(options.count, options.cpu_s, seed, options.keep)
    return min(1, fuzz([TARGETS[name] for name in options.targets or TARGETS], settings))


if __name__ == "__main__":
    sys.exit(main())
