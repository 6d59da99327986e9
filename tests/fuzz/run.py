"""Runs targets on case after case in a process of its own, and tells what a reader of foreign bytes must never do.

A fault is an exception that is no SdrtError, a warning, a case of more than a CPU second, a case that takes a
gigabyte, memory that does not stay, a process that dies or does not come back. Its input is kept as a file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import struct
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.target import LARGEST_CASE_BYTES, Target

CORPUS = Path(__file__).parent / "corpus"
MOST_CPU_S = 1.0
MOST_GROWTH_BYTES = 32 << 20
MOST_CASE_BYTES = 1 << 30
LARGEST_KEPT_BYTES = 4096
"""The corpus stays small: one input for each outcome."""
SILENCE_S = 60.0
"""A process that works so long on a case, or sleeps so long, is taken for one that will not come back. Time in which it
could work and others do does not count: the machine may be busy."""
_LOOK_S = 0.2
_WARM_UP = 500
_WATCH_EVERY = 500
_MOST_FAULTS = 20
_SLOT = struct.Struct("<QII")  # number of the case, of its target, bytes


@dataclass
class Settings:
    """``count``, ``cpu_s``: when to stop, whichever is first; None: never. ``keep``: add new outcomes to the corpus."""

    count: int | None = None
    cpu_s: float | None = None
    seed: int = 0
    keep: bool = False
    corpus: Path = CORPUS
    found: Path = Path("out") / "fuzz"
    most_cpu_s: float = MOST_CPU_S


@dataclass
class _Record:
    """What one target has done."""

    cases: int = 0
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


def fuzz(targets: Sequence[Target], settings: Settings) -> int:
    """Runs the targets in turn; prints faults, and at the end a table. Returns the number of faults."""
    slot = mmap.mmap(-1, _SLOT.size + LARGEST_CASE_BYTES)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = min(_work(targets, settings, slot), 254)
        except KeyboardInterrupt:
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return _watch(child, targets, settings, slot)


def _watch(child: int, targets: Sequence[Target], settings: Settings, slot: mmap.mmap) -> int:
    """Waits for the working process. One that dies, or stays with a case, is a fault of that case."""
    last, since_s, asleep_s = -1, 0.0, 0.0
    why = "it did not come back"
    while asleep_s < SILENCE_S:
        try:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0 if ended else _LOOK_S)
        except KeyboardInterrupt:
            continue  # the child has it too, and tells its table
        if ended and os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        if ended:
            why = f"it died of signal {os.WTERMSIG(status)}"
            break
        number, (runs, cpu_s) = _SLOT.unpack_from(slot)[0], _activity(child)
        if number != last:
            last, since_s, asleep_s = number, cpu_s, 0.0
        asleep_s += 0.0 if runs else _LOOK_S
        if cpu_s - since_s > SILENCE_S:
            break
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    _, target, size = _SLOT.unpack_from(slot)
    _tell(targets[target], slot[_SLOT.size : _SLOT.size + size], why, settings)
    return 1


def _activity(process: int) -> tuple[bool, float]:
    """Whether it runs or would like to, and its CPU seconds: proc_pid_stat(5)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return fields[0] == "R", sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _work(targets: Sequence[Target], settings: Settings, slot: mmap.mmap) -> int:
    good = {target.name: target.seeds() for target in targets}
    odd = {target.name: [*corpus_of(target, settings.corpus).values()] for target in targets}
    known = {(target.name, target.outcome(data)): data for target in targets for data in odd[target.name]}
    known |= {(target.name, target.outcome(data)): data for target in targets for data in good[target.name]}
    fresh: dict[tuple[str, str], bytes] = {}
    records = {target.name: _Record() for target in targets}
    resource.setrlimit(resource.RLIMIT_AS, (_memory_bytes(0) + MOST_CASE_BYTES,) * 2)
    warnings.simplefilter("error")  # a library's words on a terminal are no answer to a bad file
    faults, case, warm_bytes, most_bytes, started_s = 0, 0, 0, 0, time.process_time()
    try:
        while settings.count is None or case < settings.count:
            index = case % len(targets)
            target, record = targets[index], records[targets[index].name]
            rng = Random(f"{settings.seed} {target.name} {case}")
            data = target.case(good[target.name], odd[target.name], rng)
            slot[: _SLOT.size] = _SLOT.pack(case, index, len(data))
            slot[_SLOT.size : _SLOT.size + len(data)] = data
            before_s = time.process_time()
            try:
                outcome = target.outcome(data)
            except Exception:
                outcome = "FAULT"
                faults += 1
                _tell(target, data, traceback.format_exc(), settings)
            now_s = time.process_time()
            if now_s - before_s > settings.most_cpu_s:
                faults += 1
                _tell(target, data, f"it took {now_s - before_s:.2f} CPU seconds", settings)
            record.cases += 1
            record.cpu_s += now_s - before_s
            record.slowest_s = max(record.slowest_s, now_s - before_s)
            record.outcomes[outcome] += 1
            key = (target.name, outcome)
            if outcome != "FAULT" and key not in known and len(data) <= LARGEST_KEPT_BYTES:
                if key not in fresh:
                    odd[target.name].append(data)
                fresh[key] = min(fresh.get(key, data), data, key=len)
            case += 1
            if case % _WATCH_EVERY == 0:
                most_bytes = max(most_bytes, _memory_bytes(1))
            if case == _WARM_UP * len(targets):
                warm_bytes = most_bytes = _memory_bytes(1)
            if faults >= _MOST_FAULTS or (settings.cpu_s is not None and now_s - started_s > settings.cpu_s):
                break
    except KeyboardInterrupt:
        print("interrupted")
    print(_table(records))
    print(
        f"{case} cases with seed {settings.seed}, {time.process_time() - started_s:.0f} CPU seconds; memory "
        f"{warm_bytes >> 20} MiB after the first {_WARM_UP * len(targets)}, {most_bytes >> 20} at most after that"
    )
    if warm_bytes and most_bytes - warm_bytes > MOST_GROWTH_BYTES:
        faults += 1
        print(f"FAULT: memory grew by {(most_bytes - warm_bytes) >> 20} MiB")
    if settings.keep:
        for target in targets:
            first = {target.outcome(data) for data in good[target.name]}
            kept = {key: data for key, data in (known | fresh).items() if key[0] == target.name and key[1] not in first}
            _keep(target, {outcome: data for (_, outcome), data in kept.items()}, settings.corpus)
    print(f"{faults} faults")
    return faults


def corpus_of(target: Target, folder: Path = CORPUS) -> dict[str, bytes]:
    """File name -> contents of the corpus of a target."""
    return {path.name: path.read_bytes() for path in sorted((folder / target.name).glob("*"))}


def _keep(target: Target, inputs: dict[str, bytes], folder: Path) -> None:
    """Makes the corpus of a target of these, one for each outcome; what had become a second of its kind goes."""
    (folder / target.name).mkdir(parents=True, exist_ok=True)
    old = set(corpus_of(target, folder))
    for outcome, data in inputs.items():
        name = f"{outcome.partition(':')[0]}-{hashlib.sha256(outcome.encode()).hexdigest()[:8]}"
        (folder / target.name / name).write_bytes(data)
        old.discard(name)
    for name in old:
        (folder / target.name / name).unlink()
    print(f"{folder / target.name}: {len(inputs)} inputs, one for each outcome that no seed has")


def _tell(target: Target, data: bytes, why: str, settings: Settings) -> None:
    settings.found.mkdir(parents=True, exist_ok=True)
    path = settings.found / f"{target.name}-{hashlib.sha256(data).hexdigest()[:8]}"
    path.write_bytes(data)
    print(f"FAULT in {target.name}: {why.rstrip()}\n  python -m tests.fuzz {target.name} --replay {path}", flush=True)


def _memory_bytes(column: int) -> int:
    """Of this process: all addresses (0) or what is resident (1)."""
    return int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()


def _table(records: dict[str, _Record]) -> str:
    lines = [f"{'target':10} {'cases':>9} {'accepted':>9} {'outcomes':>9} {'cases/CPU s':>12} {'slowest ms':>11}"]
    for name, record in records.items():
        rate = record.cases / max(record.cpu_s, 1e-9)
        accepted, kinds = record.outcomes["accepted"], len(record.outcomes)
        slowest_ms = 1000 * record.slowest_s
        lines.append(f"{name:10} {record.cases:9} {accepted:9} {kinds:9} {rate:12.0f} {slowest_ms:11.1f}")
    return "\n".join(lines)
