"""One run on Ray Data: sends units to workers, and counts, stores and shows the rows that come back."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ray
import ray.data

from sdrt.atomic import write_atomic
from sdrt.errors import EngineError, first_line
from sdrt.parallel import usable_cores
from sdrt_batch.attempts import FOLDER
from sdrt_batch.progress import Progress
from sdrt_batch.settings import Settings
from sdrt_batch.units import Unit
from sdrt_batch.worker import Actor, Row

ERRORS = "_errors.csv"
SUMMARY = "_summary.json"
_MAX_TASKS = 20_000
"""Limit of tasks, as Ray keeps a record of each: beyond it a task has several units."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a run runs.

    Args:
        address: Of a Ray cluster; None: this machine alone, from the start of the run to its end.
        workers: Processes that keep a codec; None: as many as the cluster has cores or GPUs for.
        gpus: Of each worker; .5 puts two on one.
        cores: Of each worker.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 0.0
    cores: int = 1


@dataclass
class Summary:
    """What a run did. ``failures``: source, key and error of each picture that has no result."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    seconds: float = 0.0
    workers: int = 0
    failures: list[tuple[str, str, str]] = field(default_factory=list, repr=False)

    def add(self, row: Row) -> None:
        """Counts one picture; bytes are those of pictures that were done now."""
        status = row["status"]
        if status == "done":
            self.done += 1
            self.in_bytes += int(row["in_bytes"])
            self.out_bytes += int(row["out_bytes"])
        elif status == "skipped":
            self.skipped += 1
        else:
            self.failed += 1
            self.failures.append((str(row["source"]), str(row["key"]), str(row["error"])))

    @property
    def pictures(self) -> int:
        return self.done + self.skipped + self.failed

    @property
    def saved_bytes(self) -> int:
        return self.in_bytes - self.out_bytes

    def in_words(self) -> str:
        """The summary in one line."""
        rate = self.done / self.seconds if self.seconds else 0.0
        text = f"{self.done:,} done, {self.skipped:,} there already, {self.failed:,} failed"
        text += f"; {self.seconds:,.1f} s, {rate:,.2f} a second on {self.workers} workers"
        if self.done:
            text += f"; {self.in_bytes:,} bytes became {self.out_bytes:,}, {self.saved_bytes:,} saved"
        return text


def run(units: Sequence[Unit], settings: Settings, cluster: Cluster, progress: Progress) -> Summary:
    """Process all ``units`` except those whose results are complete.

    Leaves the tables ERRORS and SUMMARY in the destination.

    Raises:
        EngineError: No cluster, or its workers cannot start; the reason is named.
        OutputError: The tables cannot be written.
    """
    shutil.rmtree(Path(settings.destination) / FOLDER, ignore_errors=True)  # ends of an earlier run are no fault
    with_ray = _Connection(cluster)
    try:
        summary = Summary(workers=with_ray.workers)
        started_s = time.monotonic()
        for row in _rows(units, settings, cluster, with_ray.workers):
            if row["status"] == "refused":
                raise EngineError(f"no worker can start: {row['error']}")
            summary.add(row)
            progress.reach(summary.pictures, summary.failed)
        summary.seconds = round(time.monotonic() - started_s, 3)
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray stopped: {_reason(error)}") from None
    finally:
        with_ray.close()
    _leave_tables(summary, Path(settings.destination))
    return summary


class _Connection:
    """A connection to a cluster, or a cluster of this process's own."""

    def __init__(self, cluster: Cluster) -> None:
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                if cluster.address is None:
                    ray.init(
                        "local",
                        num_cpus=usable_cores(),
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                    )
                else:
                    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise EngineError(
                    f"no Ray cluster at {cluster.address or 'this machine'}: {first_line(error)}"
                ) from None
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        of = resources.get("GPU", 0) / cluster.gpus if cluster.gpus else resources.get("CPU", 0) / cluster.cores
        self.workers = int(of) if cluster.workers is None else cluster.workers
        if self.workers < 1:
            self.close()
            what = "GPUs" if cluster.gpus else "cores"
            raise EngineError(f"the cluster lacks the {what} that one worker needs")

    def close(self) -> None:
        if self._ours:
            ray.shutdown()


def _rows(units: Sequence[Unit], settings: Settings, cluster: Cluster, workers: int) -> Iterator[Row]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    texts = [{"unit": unit.to_json()} for unit in units]
    dataset = ray.data.from_items(texts, override_num_blocks=min(len(texts), _MAX_TASKS)).map_batches(
        Actor,
        fn_constructor_args=(settings,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(texts))),
        num_cpus=cluster.cores,
        num_gpus=cluster.gpus or None,
    )
    yield from dataset.iter_rows()


def _reason(error: Exception) -> str:
    """The last line of a worker's traceback is what went wrong in it; the first ones are Ray's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _leave_tables(summary: Summary, destination: Path) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("source", "key", "error"))
    writer.writerows(sorted(summary.failures))
    write_atomic(destination / ERRORS, table.getvalue().encode("utf-8", "backslashreplace"))
    fields = {name: value for name, value in asdict(summary).items() if name != "failures"}
    fields["saved_bytes"] = summary.saved_bytes
    write_atomic(destination / SUMMARY, json.dumps(fields, indent=1).encode("ascii"))
    shutil.rmtree(destination / FOLDER, ignore_errors=True)
