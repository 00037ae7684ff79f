"""A function that runs in a background thread of the same process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def beside(function: Callable[[], Result]) -> Callable[[], Result]:
    """Starts a function in a background thread.

    The thread is a daemon: a process that is stopped does not wait for it.

    Args:
      function: the function. Time is saved only if it releases the interpreter lock, as the long
        loops of scikit-learn do.

    Returns:
      A function that waits for the result and returns it, or raises the error of `function`.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result
