"""Pair statistics as in `streaming`, with kernels instead of its loops over tiles.

  tpu  v5e, v5p and later; one kernel for all sweeps, which visits pairs once, as the loops do.
  gpu  Hopper GPUs; sums of exponentials and their gradient, pairs visited from both sides.

Both are tested by interpretation on CPU and by ahead-of-time compilation. Neither has been timed,
and "auto" does not choose them. Cases that a kernel does not support run in the loops; the kernel's
module lists them.
"""

from __future__ import annotations

from typing import Any

import jax

from thanos_jax.losses.pairs import streaming
from thanos_jax.losses.pairs.entries import Entries
from thanos_jax.losses.pairs.sharded import Visits

_HOPPER = "9.0"  # compute capability
_TOO_OLD = ("TPU v2", "TPU v3", "TPU v4")


def statistics(entries: Entries, **keywords: Any) -> dict[str, jax.Array]:
    """See `thanos_jax.losses.pairs.streaming.statistics`; takes its keywords except `visits`.

    Raises:
      ValueError: jax's default backend has neither a TPU of version 5 or later nor a Hopper GPU.
    """
    return streaming.statistics(entries, visits=_visits(), **keywords)


def _visits() -> Visits:
    """Returns the kernels for jax's default backend; Pallas is imported only here."""
    backend, device = jax.default_backend(), jax.local_devices()[0]
    kind = f"{backend} ({device.device_kind})"
    if backend == "tpu" and not device.device_kind.startswith(_TOO_OLD):
        from thanos_jax.losses.pairs.pallas import tpu

        return tpu.visits()
    if backend == "gpu":
        capability = str(getattr(device, "compute_capability", "unknown"))
        if capability == _HOPPER:
            from thanos_jax.losses.pairs.pallas import gpu

            return gpu.visits()
        kind = f"gpu ({device.device_kind}, compute capability {capability})"
    raise ValueError(
        'implementation="pallas" needs a TPU v5e, v5p or later, or a GPU of compute capability '
        f"{_HOPPER} (Hopper), as jax's default backend; got {kind}. "
        'implementation="streaming" runs everywhere.'
    )
