"""Compiles for a TPU pod on any machine: devices, memory refusals, numbers, and text for tables."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import hlo
import jax
import numpy as np
from jax.experimental import mesh_utils, topologies

from thanos_jax import sharding
from thanos_jax.errors import MissingDependencyError, UserError

ORDERS = ("ring", "mesh")


def keep_off_accelerators() -> None:
    """Restricts jax to the CPU; call it before anything asks jax for devices.

    The accelerators of this machine and a cloud's metadata server are not accessed, and other
    programs that have libtpu loaded are not disturbed.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ |= {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }


def some(name: str, values: Sequence[str]) -> list[str]:
    """Returns the values of a flag; raises UserError if there are none."""
    if not values:
        raise UserError(f"--{name}: expected at least one value, got none")
    return list(values)


def options(name: str, values: Sequence[str], options: Any) -> list[str]:
    """Returns the values of a flag; raises UserError unless each is one of the options."""
    for value in some(name, values):
        if value not in options:
            raise UserError(f"--{name}: expected one of {', '.join(options)}, got {value!r}")
    return list(values)


def positive(name: str, values: Sequence[str]) -> list[int]:
    """Returns the values of a flag; raises UserError unless each is a positive integer."""
    for value in some(name, values):
        if not re.fullmatch(r"0*[1-9]\d*", value):
            raise UserError(f"--{name}: expected positive integers, got {value!r}")
    return [int(value) for value in values]


def chips_of(topology: str) -> list[Any]:
    """Returns the devices of a topology, in the order of the TPU runtime."""
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        if "not installed" in str(error):
            raise MissingDependencyError(
                "libtpu: not installed, expected for its TPU compiler; "
                "pip install 'thanos_jax[pod]'"
            ) from None
        if "INVALID_ARGUMENT" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(
            "--topology: expected a TPU generation and the chips along each side, as v5e:16x16 or "
            f"v5p:4x4x8, got {topology!r} ({reason})"
        ) from None
    return list(described.devices)


def in_order(order: str, devices: list[Any]) -> np.ndarray:
    """Arranges devices along the data axis.

    Args:
      order: one of `ORDERS`.
      devices: of one topology.

    Returns:
      object [devices].
    """
    if any(device.core_on_chip for device in devices):
        return np.array(devices)  # jax can arrange chips, but not the cores of a chip
    usual = mesh_utils.create_device_mesh((len(devices),), devices)
    return np.array(sharding.ring(usual.tolist())) if order == "ring" else usual


def refusal(message: str) -> str | None:
    """Returns how much memory was missing, if a compiler's error is about memory; else None."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    amounts = re.search(r"\(([\d.]+\w?)\) exceeds available \w+ \(([\d.]+\w?)\)", message)
    amounts = amounts or re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?)", message)
    if amounts:
        return f"RESOURCE_EXHAUSTED needs {amounts[1]} of {amounts[2]}"
    return message.partition("\n")[0]


def numbers(lowered: jax.stages.Lowered) -> dict[str, Any]:
    """Compiles a program and returns its numbers, per device.

    Args:
      lowered: the program, for the devices of a topology.

    Returns:
      "refused": how much memory was missing, or None. If None, also bytes, FLOPs and collectives as
      `hlo.summarize` counts them, and the seconds of compilation.
    """
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        words = refusal(str(error))
        if words is None:
            raise
        return {"refused": words}
    seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert text is not None
    summary = hlo.summarize(text)
    return {
        "refused": None,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "largest_buffer": summary.largest_buffer.shape,
        "flops": summary.flops,
        "exponentials": summary.exponentials,
        "exact": summary.exact,
        "unknown_loops": summary.unknown_loops,
        "opaque_calls": summary.opaque_calls,
        "scheduled": summary.scheduled,
        "collectives": {name: each._asdict() for name, each in summary.collectives.items()},
        "bytes_sent": sum(each.bytes_sent for each in summary.collectives.values()),
        "compile_seconds": seconds,
    }


def size(count: float) -> str:
    """Returns a number of bytes in a readable unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def traffic_lines(row: Mapping[str, Any]) -> list[str]:
    """Returns a line for each kind of collective, and for operations that were not counted.

    Args:
      row: "collectives", "scheduled", "unknown_loops", "opaque_calls" of a program; without them if
        it was refused.
    """
    lines = []
    for name, each in sorted(row.get("collectives", {}).items()):
        overlap = "overlap unknown"
        if row["scheduled"]:
            overlap = f"{each['overlapped'] / each['executions']:.1%} overlap products"
            if each["bytes_overlapped"]:
                share = each["bytes_overlapped"] / each["bytes_sent"]
                intensity = each["flops_beside"] / each["bytes_overlapped"]
                overlap += f" ({share:.1%} of the bytes, {intensity:.3g} FLOPs a byte)"
        sent = f"{size(each['bytes_sent'])} sent"
        lines.append(f"    {each['executions']:.0f} x {name}, {sent}, {overlap}")
    for what in ("unknown_loops", "opaque_calls"):
        if row.get(what):
            lines.append(f"    not counted, {what.replace('_', ' ')}: {', '.join(row[what])}")
    return lines
