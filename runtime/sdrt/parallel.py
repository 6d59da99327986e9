"""Maps a function over many items on threads: numpy, the engines and zlib release the GIL while they compute."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from sdrt.arguments import check_count
from sdrt.errors import ArgumentError

if TYPE_CHECKING:
    from concurrent.futures import Future

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """The number of cores that this process may use: in containers and job queues often fewer than exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class InOrder(Iterator[_Result], Generic[_Item, _Result]):
    """Iterates over the results of a function for many items, in order, computed ahead on threads.

    At most twice as many items as ``workers`` are taken before their results are. The error of an item is raised in its
    place; the results after it can still be taken. One thread at a time may take results. Once nobody holds the
    iterator, nothing more is begun, and the threads end.

    Args:
        function: Called from several threads at once.
        items: Taken one by one, in the thread that takes the results.
        workers: Number of threads, 1 or more; None: one for each core that the process may use.

    Raises:
        ArgumentError: ``workers`` is no such number; or ``items`` is one name, one file's bytes or nothing to iterate.
    """

    def __init__(self, function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int | None) -> None:
        from concurrent.futures import ThreadPoolExecutor  # it imports logging, which single pictures do without

        check_count("workers", workers)
        if isinstance(items, (str, bytes, bytearray, memoryview)) or not isinstance(items, Iterable):
            raise ArgumentError(f"expected several pictures or files, got one {type(items).__name__}: give a list")
        workers = usable_cores() if workers is None else workers
        self._function = function
        self._items = iter(items)
        self._ahead = 2 * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="sdrt")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._pending: deque[Future[_Result]] = deque()

    def __next__(self) -> _Result:
        """The next result. Raises what the function raised for its item, and StopIteration after the last."""
        while len(self._pending) < self._ahead:
            try:
                item = next(self._items)
            except StopIteration:
                break
            self._pending.append(self._pool.submit(self._function, item))
        if not self._pending:
            self._pool.shutdown()
            raise StopIteration
        return self._pending.popleft().result()
