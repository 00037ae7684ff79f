"""What the processes of a run agree on: the first one decides or computes, and all get it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from thanos_jax.errors import UserError


class OtherProcessError(UserError):
    """The first process failed at what it did for all."""


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], bytes]) -> bytes:
    """Returns, in every process, what the first one makes; the others make nothing.

    Args:
      make: runs in the first process only, and must not use devices of other processes.

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
    """Returns, in every process, a value that JSON can hold and the first one finds, as in files.

    Which files there are decides what is run next: processes that looked by themselves might see
    different ones, and wait for each other.

    Args:
      find: as for `from_first`.

    Raises:
      OtherProcessError: as `from_first`.
    """
    if jax.process_count() == 1:
        return find()
    return json.loads(from_first(lambda: json.dumps(find()).encode()))


def everywhere(here: bool) -> bool:
    """Returns whether something holds in every process; every process makes this call."""
    if jax.process_count() == 1:
        return here
    return bool(np.all(multihost_utils.process_allgather(np.int32(here))))
