"""Time and memory of a contrastive loss and its gradient, compared with other libraries.

python benchmarks/pairwise.py [--loss=supcon] [--entries=1024,2048,4096,8192] [--dim=128]
    [--implementations=dense,streaming] [--json=FILE] [--plot=FILE.png]

The peers come with `pip install -e '.[benchmark]'`; without them the rows say so. Every candidate
gets the same embeddings and labels, and its value and gradient are compared with the definition
before it is timed. Each runs in a separate process; the timed calls go round, one of each candidate
in turn, so that a noisy machine affects all alike. The results are medians with quartiles, peak
memory (measured as benchmarks/pairwise_worker.py describes), the share of the floor (4 N^2 dim
FLOPs at the rate of this machine's own matrix product just before and after), and the speeds
relative to each other.

A candidate that would not fit in memory is not run: the compiler reports the memory of a JAX loss,
and peers in PyTorch need a measured number of bytes for each pair.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import pathlib
import platform as host
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from absl import flags
from pairwise_candidates import LOSSES, OURS, PEERS, Problem, cores, definition, find, why_not
from pairwise_report import errors, finish, plot, table
from pairwise_worker import probe, work

from thanos_jax import command
from thanos_jax.errors import UserError

_ENTRIES = flags.DEFINE_list("entries", "1024,2048,4096,8192", "Numbers of entries N, each even.")
_DIM = flags.DEFINE_integer("dim", 128, "Width of the embeddings.", lower_bound=1)
_LOSS = flags.DEFINE_enum("loss", "supcon", LOSSES, "The loss.")
_CLASSES = flags.DEFINE_integer("classes", 10, "Number of classes.", lower_bound=2)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.1, "Temperature of the loss.")
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations", None, "Implementations of thanos_jax; by default dense and streaming."
)
_PEERS = flags.DEFINE_list(
    "peers", None, "Some of pml, lightly and optax; by default all; an empty list for none."
)
_REPEATS = flags.DEFINE_integer("repeats", 9, "Timed calls of each candidate.", lower_bound=3)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", 60.0, "Seconds at one size after which a candidate stops, but after three calls."
)
_MEMORY_LIMIT = flags.DEFINE_float(
    "memory_limit", None, "Gigabytes that a candidate may need; at most 90 % of what is available."
)
_CHECK_ENTRIES = flags.DEFINE_integer(
    "check_entries", 65536, "Largest number of entries compared with the definition.", 0
)
_IN_TURNS = flags.DEFINE_boolean(
    "in_turns", True, "Whether to run all candidates in turns; never done on a TPU."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of embeddings and labels.", lower_bound=0)
_JSON = flags.DEFINE_string("json", None, "File for all results.")
_PLOT = flags.DEFINE_string("plot", None, "File for a plot of time and memory: FILE.png.")

LIBRARIES = (
    "thanos_jax", "jax", "jaxlib", "numpy", "optax", "torch", "pytorch-metric-learning", "lightly",
)  # fmt: skip
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS")


def entries(given: Sequence[str]) -> list[int]:
    """Returns the numbers of --entries, smallest first."""
    if not given:
        raise UserError("--entries: expected at least one number, got none")
    for item in given:
        if not item.isascii() or not item.isdecimal() or int(item) < 4 or int(item) % 2:
            raise UserError(
                f"--entries: expected even numbers of at least 4 (two views of two images), "
                f"got {item!r}"
            )
    return sorted({int(item) for item in given})


def chosen(flag: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """Returns the names in a flag without repetitions; raises UserError for an unknown name."""
    for item in given:
        if item not in known:
            raise UserError(f"--{flag}: expected names of {', '.join(known)}, got {item!r}")
    return list(dict.fromkeys(given))


def positive(flag: str, value: float | None) -> None:
    """Raises UserError unless the flag's value is positive and finite, or not given."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise UserError(f"--{flag}: expected a positive number, got {value}")


def output(flag: str, value: str | None, suffix: str) -> pathlib.Path | None:
    """Checks the path of an output file before the run; raises UserError if it cannot be used."""
    if value is None:
        return None
    path = pathlib.Path(value)
    if path.suffix != suffix:
        raise UserError(f"--{flag}: expected a file name ending in {suffix}, got {value!r}")
    if not path.parent.is_dir():
        raise UserError(f"--{flag}: expected a file in an existing folder, got {value!r}")
    return path


def candidates() -> list[str]:
    """Returns the names in --implementations, and then in --peers."""
    from thanos_jax.losses.pairs import IMPLEMENTATIONS

    ours = _IMPLEMENTATIONS.value
    if ours is None:
        ours = [name for name in ("dense", "streaming") if name in IMPLEMENTATIONS]
    ours = chosen("implementations", ours, list(IMPLEMENTATIONS))
    short = {candidate.short: name for name, candidate in PEERS.items()}
    peers = list(short) if _PEERS.value is None else _PEERS.value
    names = [OURS + name for name in ours]
    names += [short[name] for name in chosen("peers", peers, list(short))]
    if not names:
        raise UserError("--implementations and --peers: expected at least one name, got none")
    return names


def start(target: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    """Starts a fresh process; returns it and our end of its connection."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=target, args=(far, *arguments), daemon=True)
    process.start()
    far.close()  # otherwise the end of the process would not close the connection
    return process, near


def receive(process: Any, connection: Any) -> Any:
    """Returns what the process sends; if it died, {"status": the reason}."""
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        code = process.exitcode
        hint = ", perhaps out of memory" if code == -9 else ""
        return {"status": f"failed: its process died with exit code {code}{hint}"}


def ask(process: Any, connection: Any, again: bool) -> Any:
    """Tells a worker to run once more, or to end; returns its answer."""
    with contextlib.suppress(ConnectionError):  # it died; `receive` reports the reason
        connection.send(again)
    return receive(process, connection)


def measure_rates(library: str, platform: str | None) -> dict[str, Any]:
    """Returns the result of `pairwise_worker.probe`."""
    process, connection = start(probe, library, platform)
    found = receive(process, connection)
    process.join()
    if "rates" not in found:
        raise UserError(f"{library} does not multiply matrices here: {found['status']}")
    return found


def measure(
    names: Sequence[str], problem: Problem, platform: str, expected: Any
) -> list[dict[str, Any]]:
    """Starts the candidates, then times them in turns.

    Args:
      names: the candidates.
      problem: the problem that they compute.
      platform: "cpu", "gpu" or "tpu".
      expected: value and gradient of the definition, or None.

    Returns:
      A row for each name; its "status" is "ok", or the reason why it has no times.
    """
    limit = None if _MEMORY_LIMIT.value is None else int(1e9 * _MEMORY_LIMIT.value)
    rows, running = [], []
    for name in names:
        row: dict[str, Any] = {"entries": problem.entries, "dim": problem.dim, "candidate": name}
        rows.append(row)
        row["status"] = why_not(name, problem.loss)
        if row["status"]:
            continue
        process, connection = start(work, name, problem, platform, limit)
        row |= receive(process, connection)
        if row["status"] == "ok":
            found = row.pop("value"), row.pop("gradient")
            row["value"], row["computes"] = found[0], find(name).computes[problem.loss]
            off = (None, None) if expected is None else errors(found, expected)
            row["value_error"], row["gradient_error"] = off
            row["seconds"], row["cpu_seconds"] = [], []
            running.append((row, process, connection))
    for repeat in range(_REPEATS.value):
        # Each round begins with another candidate, so that none always follows the same one.
        first = repeat % max(1, len(running))
        for row, process, connection in [*running[first:], *running[:first]]:
            enough = len(row["seconds"]) >= 3 and sum(row["seconds"]) > _MAX_SECONDS.value
            if row["status"] != "ok" or enough:
                continue
            answer = ask(process, connection, True)
            if isinstance(answer, dict):
                row |= answer
                continue
            row["seconds"].append(answer[0])
            row["cpu_seconds"].append(answer[1])
    for row, process, connection in running:
        if row["status"] == "ok":
            row["cores_busy"] = sum(row["cpu_seconds"]) / sum(row["seconds"])
            peak = ask(process, connection, False)
            row["peak_bytes"] = None if isinstance(peak, dict) else peak
        process.join()
    return rows


def versions() -> dict[str, str | None]:
    """Returns library -> version, None where it is not installed."""
    found: dict[str, str | None] = {"python": host.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    import thanos_jax

    return found | {"thanos_jax": thanos_jax.__version__}


def processor() -> str:
    """Returns the processor's name."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else host.processor() or host.machine()


def main(argv: Sequence[str]) -> None:
    """Measures each size, prints the table, and writes the files."""
    for flag in (_TEMPERATURE, _MAX_SECONDS, _MEMORY_LIMIT):
        positive(flag.name, flag.value)
    sizes, names = entries(_ENTRIES.value), candidates()
    json_path = output("json", _JSON.value, ".json")
    plot_path = output("plot", _PLOT.value, ".png")
    results: dict[str, Any] = {
        "settings": {flag.name: flag.value for flag in _SETTINGS} | {"entries": sizes},
        "versions": versions(),
        "machine": {
            "processor": processor(),
            "cores": cores(),
            "load_before": os.getloadavg()[0],
            "environment": {name: os.environ[name] for name in THREADS if name in os.environ},
        },
        "matrix_product": [],
        "rows": [],
    }
    for size in sizes:
        print(f"== {size} entries", flush=True)
        problem = Problem(
            _LOSS.value, size, _DIM.value, _CLASSES.value, _TEMPERATURE.value, _SEED.value
        )
        measure_size(results, problem, names)
        # Rewritten after every size, so that an interrupted run keeps its results.
        if json_path is not None:
            json_path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(table(results))
    if not any(row["status"] == "ok" for row in results["rows"]):
        raise UserError("no candidate ran; the rows above say why")
    if plot_path is not None:
        plot(results, plot_path)


def measure_size(results: dict[str, Any], problem: Problem, names: Sequence[str]) -> None:
    """Adds one size's rows, and the rates of matrix products around them, to the results.

    Args:
      results: as `main` writes them; changed in place.
      problem: of that size.
      names: the candidates.
    """
    before = measure_rates("jax", None)
    platform = before["platform"]
    torch = {} if find_spec("torch") is None else measure_rates("torch", platform)
    results["machine"] |= {
        "platform": platform,
        "device_kind": before["device_kind"],
        "torch_threads": torch.get("threads"),
    }

    expected = definition(problem) if problem.entries <= _CHECK_ENTRIES.value else None
    # Only one process can hold a TPU.
    results["in_turns"] = _IN_TURNS.value and platform != "tpu"
    rows: list[dict[str, Any]] = []
    for group in [names] if results["in_turns"] else [[name] for name in names]:
        rows += measure(group, problem, platform, expected)
    after = measure_rates("jax", None)
    measured = {"jax before": before, "jax after": after} | ({"torch": torch} if torch else {})
    rates = {name: fastest(one["rates"]) for name, one in measured.items()}
    results["matrix_product"].append({"entries": problem.entries, **rates})
    # Clock rates change within a run, so each size is compared with the rates around it.
    finish(rows, {k: (v + rates["jax after"][k]) / 2 for k, v in rates["jax before"].items()})
    results["rows"] += rows


def fastest(rates: dict[str, dict[int, float]]) -> dict[str, float]:
    """Returns dtype -> FLOP/s at the fastest matrix size."""
    return {dtype: max(by_size.values()) for dtype, by_size in rates.items()}


_SETTINGS = (
    _ENTRIES, _DIM, _LOSS, _CLASSES, _TEMPERATURE, _REPEATS, _MAX_SECONDS, _MEMORY_LIMIT,
    _CHECK_ENTRIES, _SEED,
)  # fmt: skip

if __name__ == "__main__":
    command.start(main)
