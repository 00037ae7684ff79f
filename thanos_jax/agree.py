"""Values that all processes of a run share: the first process computes them, all receive them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from thanos_jax.errors import UserError


class OtherProcessError(UserError):
    """The first process failed while it computed a value for all processes."""


def is_first() -> bool:
    """Returns whether this is the first process, the only one that writes files."""
    return jax.process_index() == 0


def from_first(make: Callable[[], bytes]) -> bytes:
    """Calls a function in the first process and returns its bytes in every process.

    Args:
      make: called in the first process only; it must not use devices of other processes.

    Raises:
      OtherProcessError: in the other processes, if `make` raises in the first one.
    """
    if jax.process_count() == 1:
        return make()
    made, error = b"", None
    if is_first():
        try:
            made = make()
        except Exception as raised:  # the others must not wait for it
            error = raised
    length = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if error else len(made))))
    if error:
        raise error
    if length < 0:
        raise OtherProcessError("the first process failed; see its message")
    data = np.frombuffer(made, np.uint8) if is_first() else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes()


def value_of_first(find: Callable[[], Any]) -> Any:
    """Calls a function in the first process and returns its value in every process.

    Used for what depends on files, such as what to run next. Processes that each looked at the
    files might see different ones and then wait for each other.

    Args:
      find: as `make` of `from_first`, but returns a value that JSON can hold.

    Raises:
      OtherProcessError: as `from_first`.
    """
    if jax.process_count() == 1:
        return find()
    return json.loads(from_first(lambda: json.dumps(find()).encode()))


def everywhere(here: bool) -> bool:
    """Returns whether `here` is true in every process; every process must make this call."""
    if jax.process_count() == 1:
        return here
    return bool(np.all(multihost_utils.process_allgather(np.int32(here))))
