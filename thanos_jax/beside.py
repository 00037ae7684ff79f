"""Work that goes on beside other work of the same process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def beside(function: Callable[[], Result]) -> Callable[[], Result]:
    """Starts a function in a thread of its own.

    The thread ends with the process: a run that is stopped does not wait for it.

    Args:
      function: saves time only if it releases the interpreter lock, as scikit-learn's long loops
        do.

    Returns:
      Waits for the function and returns its result, or raises its error.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result
