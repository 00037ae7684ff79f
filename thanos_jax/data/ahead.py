"""Results of a function, computed ahead of their use by threads, in order."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Iterator[Result]:
    """Yields function(item) of each item, in order; the threads end when the consumer does.

    Args:
      function: runs in several threads.
      items: its arguments; taken as they are needed.
      threads: how many, at least 1; so many results and two more are ready or under way.
    """
    pool = ThreadPoolExecutor(threads)
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
