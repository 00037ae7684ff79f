"""Measures one candidate in a separate process: its memory, and its time for each call asked for.

Memory is the peak of a call above its inputs:

  cpu  resident size of the process. First the inputs are made and the loss is compiled, free pages
       of the heap are returned to the system (malloc_trim), and a tiny problem is run, so that
       libraries and threads are loaded. Then the size is read (VmRSS), the kernel's high-water
       mark is reset, and all calls run, including the timed ones. The result is the mark (VmHWM)
       less the size before. It includes the allocator's unused pages. Where the mark cannot be
       reset, it may date from compilation, and the result is an upper bound. The kernel counts to
       within half a megabyte.
  gpu, tpu
       jax: peak_bytes_in_use since the process started, less bytes_in_use before the calls; it
       includes trials of the compiler's autotuning. torch: max_memory_allocated, reset before.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from pairwise_candidates import CannotRunError, Prepared, Problem, cores, find

TINY = 64  # entries of the problem that warms the runtime
SETTLE = 0.05  # seconds before a timed call, until the last candidate's threads stop spinning
ROOM = 0.9  # share of the available memory that may be used
ENOUGH = 0.1  # seconds of a matrix product after which no larger size is tried


def process_memory(field: str) -> int | None:
    """Returns VmRSS or VmHWM of this process in bytes; None if there is no /proc."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)


def trim_heap() -> None:
    """Returns the heap's free pages to the system, if the C library can, so no call reuses them."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def reset_mark() -> bool:
    """Resets the high-water mark to the resident size; returns whether that worked."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def resident_meter() -> tuple[Callable[[], int | None], str]:
    """Starts measuring the peak resident size above the current size.

    Returns:
      A function that returns the bytes, and a description of the measurement.
    """
    before = process_memory("VmRSS")
    if before is None:
        return lambda: None, "not measured: no /proc"
    how = "peak resident size" + ("" if reset_mark() else ", upper bound")
    return lambda: max(0, (process_memory("VmHWM") or before) - before), how


def _meter(module: str, platform: str) -> tuple[Callable[[], int | None], str]:
    if platform == "cpu":
        return resident_meter()
    if module in ("pytorch_metric_learning", "lightly"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - before, "torch max_memory_allocated"
    import jax

    device = jax.local_devices()[0]
    statistics = device.memory_stats()
    if not statistics or "peak_bytes_in_use" not in statistics:
        return lambda: None, "not measured: the device has no memory statistics"
    in_use = statistics["bytes_in_use"]
    return lambda: device.memory_stats()["peak_bytes_in_use"] - in_use, "jax peak_bytes_in_use"


def available_memory(module: str, platform: str) -> int | None:
    """Returns the bytes that a process can still allocate on the device (CPU: on the machine)."""
    if platform != "cpu":
        if module in ("pytorch_metric_learning", "lightly"):
            import torch

            return torch.cuda.mem_get_info()[0]
        import jax

        statistics = jax.local_devices()[0].memory_stats() or {}
        limit = statistics.get("bytes_limit")
        return None if limit is None else limit - statistics.get("bytes_in_use", 0)
    amounts = []
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable"):
                amounts.append(1024 * int(line.split()[1]))
    # A container's own limit, in either version of control groups; "max" means none.
    root = pathlib.Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            amounts.append(int((root / limit).read_text()) - int((root / used).read_text()))
    return min(amounts, default=None)


def work(
    connection: Any, name: str, problem: Problem, platform: str, memory_limit: int | None
) -> None:
    """Prepares a candidate and reports on it, then runs it once for every True received.

    It first sends a dictionary. Its "status" is "ok", or an error after which the process ends. If
    "ok", it also has value, gradient [N, dim], and the report of `_prepare`. Then it sends (wall
    seconds, CPU seconds) for each call and, on False, the peak bytes of all calls, None if unknown.
    """
    # On a GPU the candidates share the device's memory; jax would take three quarters at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        prepared, meter, report = _prepare(name, problem, platform, memory_limit)
        prepared.run()
        found = prepared.run()
        peak = meter()
        value, gradient = prepared.read(found)
        connection.send(report | {"value": value, "gradient": gradient})
        del found, gradient
        reset_mark()  # copying and sending are not part of a call
        while connection.recv():
            time.sleep(SETTLE)
            started, busy = time.perf_counter(), time.process_time()
            prepared.run()
            connection.send((time.perf_counter() - started, time.process_time() - busy))
        connection.send(None if peak is None else max(peak, meter() or 0))
    except CannotRunError as error:
        connection.send({"status": f"not run: {error}"})
    except Exception as error:  # of any library; shown in the candidate's row
        message = str(error).strip().partition("\n")[0][:200]
        connection.send({"status": f"failed: {type(error).__name__}: {message}"})


def _prepare(
    name: str, problem: Problem, platform: str, memory_limit: int | None
) -> tuple[Prepared, Callable[[], int | None], dict[str, Any]]:
    candidate = find(name)
    tiny = candidate.prepare(problem._replace(entries=min(TINY, problem.entries)), platform)
    tiny.run()
    prepared = candidate.prepare(problem, platform)
    free = available_memory(candidate.module, platform)
    limits = [memory_limit, None if free is None else int(ROOM * free)]
    limit = min((amount for amount in limits if amount is not None), default=None)
    if prepared.need is not None and limit is not None and prepared.need > limit:
        raise CannotRunError(f"would need {prepared.need / 1e9:.3g} GB of {limit / 1e9:.3g} GB")
    trim_heap()
    for _ in range(2):
        tiny.run()
    meter, how = _meter(candidate.module, platform)
    report = {
        "status": "ok",
        "peak_bytes_are": how,
        "xla_temp_bytes": prepared.temp,
        "estimated_bytes": prepared.need,
        "compile_seconds": prepared.compile_seconds,
    }
    return prepared, meter, report


def probe(connection: Any, library: str, platform: str | None) -> None:
    """Sends the machine's matrix-product rates: {"rates": {dtype: {size: FLOP/s}}, ...}."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    connection.send(_probe_jax() if library == "jax" else _probe_torch(platform))


def _probe_jax() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    device, platform = jax.local_devices()[0], jax.default_backend()
    rates = {}
    for dtype in ("float32",) if platform == "cpu" else ("float32", "bfloat16"):
        # HIGHEST: full float32, not truncated to fewer bits; it does not change bfloat16.
        product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))

        def make(size: int, dtype: str = dtype, product: Any = product) -> Callable[[], Any]:
            x = jax.random.normal(jax.random.key(0), (size, size), dtype)
            return lambda: jax.block_until_ready(product(x))

        rates[dtype] = _rates(make, platform)
    return {"platform": platform, "device_kind": device.device_kind, "rates": rates}


def _probe_torch(platform: str | None) -> dict[str, Any]:
    import torch

    torch.set_num_threads(cores())
    if platform == "tpu" or (platform == "gpu" and not torch.cuda.is_available()):
        return {"rates": {}, "threads": torch.get_num_threads()}
    device = "cuda" if platform == "gpu" else "cpu"

    def make(size: int) -> Callable[[], Any]:
        x = torch.randn(size, size, device=device)

        def run() -> None:
            torch.matmul(x, x)
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    rates = {"float32": _rates(make, platform or "cpu")}
    return {"rates": rates, "threads": torch.get_num_threads()}


def _rates(make: Callable[[int], Callable[[], Any]], platform: str) -> dict[int, float]:
    """Returns size -> FLOP/s, from the median of three to ten products of square matrices."""
    rates = {}
    for size in (512, 1024, 2048, 4096, 8192) if platform == "cpu" else (2048, 4096, 8192, 16384):
        run = make(size)
        run()
        seconds: list[float] = []
        while len(seconds) < 3 or (len(seconds) < 10 and sum(seconds) < ENOUGH):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        rates[size] = 2.0 * size**3 / statistics.median(seconds)
        if min(seconds) > ENOUGH:
            break
    return rates
