"""Runs as several processes, on one machine or many: the flags, and how processes connect."""

from __future__ import annotations

import os
import sys

from absl import flags

from thanos_jax.errors import UserError

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for a run of several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the run.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0.", lower_bound=0
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Finds the other processes automatically, on Cloud TPU, SLURM, Open MPI or Kubernetes.",
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds",
    30,
    "Seconds without a heartbeat of one process after which the others end.",
    lower_bound=1,
)


class ProcessError(UserError):
    """Flags of several processes do not fit together, or the processes could not connect."""


def join() -> None:
    """Connects to the other processes, if the flags name any; call it before any use of jax.

    From here on, only process 0 writes to stdout.

    Raises:
      ProcessError: some of the flags are missing, or the processes could not connect.
    """
    coordinator, count, index = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    given = {"coordinator": coordinator, "num_processes": count, "process_id": index}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if not _DISTRIBUTED.value:
        if len(missing) == len(given):
            return
        if coordinator is None or count is None or index is None:
            raise ProcessError(
                f"expected --coordinator, --num_processes and --process_id together, got none of "
                f"{', '.join(missing)}"
            )
        if index >= count:
            raise ProcessError(
                f"--process_id: expected less than --num_processes={count}, got {index}"
            )
        if not coordinator.rpartition(":")[2].isdecimal():
            raise ProcessError(f"--coordinator: expected HOST:PORT, got {coordinator!r}")
    import jax

    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method=None if _DISTRIBUTED.value else "deactivate",
            heartbeat_timeout_seconds=_HEARTBEAT.value,
        )
    except (ValueError, RuntimeError) as error:
        raise ProcessError(
            f"the processes could not connect: {error}. Without a cluster that jax knows, give "
            "each --coordinator, --num_processes and --process_id"
        ) from error
    if jax.process_index():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)
