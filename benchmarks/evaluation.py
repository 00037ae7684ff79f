r"""Times evaluations of frozen embeddings, in turns with scikit-learn's neighbour search.

    python benchmarks/evaluation.py --rows=200000 --width=256 --classes=100 --queries=2000

Prints a table: median seconds and processor time of a call, and for a search its rate as a share of
the rate of a square matrix product measured in the same turns. Memory is measured in a separate
process: the peak beyond the inputs, including compiled programs. The inputs come from
`placing.aligned`, as in a run; a CPU device would copy arrays that NumPy allocates.

With --once, each part is called once in a separate process; its seconds include compiling. With
--path, the linear head's fit of each L2 weight is shown instead: objective, accuracy on the queries
and Newton steps.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags

_ROWS = flags.DEFINE_integer("rows", 4096, "training embeddings", lower_bound=64)
_WIDTH = flags.DEFINE_integer("width", 32, "numbers of an embedding", lower_bound=2)
_CLASSES = flags.DEFINE_integer("classes", 10, "classes", lower_bound=2)
_QUERIES = flags.DEFINE_integer("queries", 256, "embeddings that are classified", lower_bound=1)
_NEIGHBOURS = flags.DEFINE_integer("neighbours", 20, "k", lower_bound=1)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 200, "Newton steps of the head for each L2 weight, at most", lower_bound=1
)
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "turns", lower_bound=1)
_PARTS = flags.DEFINE_list(
    "parts", ["head", "neighbours", "means", "geometry"], "what is timed; also votes and herding"
)
_ONCE = flags.DEFINE_bool("once", False, "one call of each part, and nothing else")
_PATH = flags.DEFINE_bool("path", False, "the head's fit of each L2 weight, and nothing else")
_PEER = flags.DEFINE_bool("peer", True, "also time scikit-learn's exact neighbours")
_MEMORY = flags.DEFINE_bool("memory", True, "measure memory, in a separate process for each part")

_SQUARE = 2048  # rows of the square matrices of the product


def embeddings(rows: int, width: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings float32 [rows, width] around class means, and labels [rows].

    The variance of the k-th direction is proportional to 1 / k.
    """
    from thanos_jax.downstream import placing

    rng, fixed = np.random.default_rng(seed), np.random.default_rng(77)
    scales = (np.arange(1, width + 1) ** -0.5).astype(np.float32)
    means = fixed.standard_normal((classes, width), np.float32) * 0.4 * scales
    turn = np.linalg.qr(fixed.standard_normal((width, width)))[0].astype(np.float32)
    labels = rng.integers(0, classes, rows)
    found = placing.aligned((rows, width), np.float32)
    for start in range(0, rows, 16384):
        some = labels[start : start + 16384]
        noise = rng.standard_normal((len(some), width), np.float32) * scales
        found[start : start + len(some)] = (means[some] + noise) @ turn + 0.1
    return found, labels


def calls(parts: Sequence[str], sizes: dict[str, int]) -> dict[str, Callable[[], object]]:
    """Returns the calls to time, by name, on inputs made here."""
    from thanos_jax.downstream import coreset, geometry, noisy_labels, transfer

    train, labels = embeddings(sizes["rows"], sizes["width"], sizes["classes"], 0)
    test, test_labels = embeddings(sizes["queries"], sizes["width"], sizes["classes"], 1)
    known = {
        "head": lambda: transfer.linear_head(
            train,
            labels,
            test,
            test_labels,
            num_classes=sizes["classes"],
            max_iterations=sizes["iterations"],
        ),
        "neighbours": lambda: transfer.nearest_neighbours(
            train, labels, test, k=sizes["neighbours"]
        ),
        "means": lambda: transfer.class_means(train, labels, test),
        "geometry": lambda: geometry.geometry(train, labels, labels // 10),
        "votes": lambda: noisy_labels.suspicion(train, labels, k=sizes["neighbours"]),
        "herding": lambda: coreset.herding(train, labels, 10),
    }
    found: dict[str, Callable[[], object]] = {part: known[part] for part in parts}
    if "neighbours" in parts and _PEER.value:
        from sklearn.neighbors import NearestNeighbors

        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test)]
        peer = NearestNeighbors(n_neighbors=sizes["neighbours"], algorithm="brute").fit(unit[0])
        found["scikit-learn"] = lambda: peer.kneighbors(unit[1])
    square = np.random.default_rng(0).standard_normal((_SQUARE, _SQUARE), np.float32)
    found["product"] = lambda: square @ square
    return found


def timed(found: dict[str, Callable[[], object]], turns: int) -> dict[str, tuple[float, float]]:
    """Returns the median seconds and processor seconds of each call, made in turns."""
    for call in found.values():
        call()
    every: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(turns):
        for name, call in found.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            every[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (statistics.median(a for a, _ in each), statistics.median(b for _, b in each))
        for name, each in every.items()
    }


def _most_held(*, anew: bool = False) -> float:
    """Returns the peak memory of this process in MB; `anew` resets the peak first."""
    if anew:
        # Memory that was freed but kept by the allocator would be used again without being seen.
        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _measured(part: str, sizes: dict[str, int], queue: multiprocessing.Queue) -> None:
    import jax

    flags.FLAGS(["evaluation", "--nopeer"])
    call = calls([part], sizes)[part]
    jax.devices()  # starts the runtime, which any program needs
    before, wall, processor = _most_held(anew=True), time.perf_counter(), time.process_time()
    call()
    seconds = time.perf_counter() - wall, time.process_time() - processor
    queue.put((*seconds, _most_held() - before))


def once(part: str, sizes: dict[str, int]) -> tuple[float, float, float]:
    """Calls a part in a new process, which makes its inputs.

    Returns:
      Seconds, processor seconds, and the peak memory above the inputs in MB.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measured, args=(part, sizes, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def print_path(sizes: dict[str, int]) -> None:
    """Prints objective, accuracy and Newton steps of the linear head, by L2 weight."""
    from thanos_jax.downstream import linear, logistic, newton, placing

    train, labels = embeddings(sizes["rows"], sizes["width"], sizes["classes"], 0)
    test, test_labels = embeddings(sizes["queries"], sizes["width"], sizes["classes"], 1)
    mean, std = linear.mean_and_std(train)
    placed = placing.place(train)
    problem = logistic.Problem(
        placed, placed.split(labels.astype(np.int32)), mean, 1 / std, sizes["classes"]
    )
    print("| L2 weight | objective | accuracy | Newton steps |")
    print("|---|---|---|---|")
    grid = sorted(linear.REGULARIZATION, reverse=True)
    for weight, fit in newton.path(problem, grid, sizes["iterations"]):
        weights, bias = (fit.at[name].T.astype(np.float32) for name in ("weights", "bias"))
        head = linear.Head(weights, bias, mean, std, weight, 0.0, fit.iterations, 0.0)
        accuracy = np.mean(linear.predict(head, test) == test_labels)
        objective = logistic.measure(problem, fit.at).value + weight / 2 * np.sum(weights**2)
        print(f"| {weight:g} | {objective:.8f} | {accuracy:.4f} | {fit.iterations} |", flush=True)


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    sizes = {
        "rows": _ROWS.value,
        "width": _WIDTH.value,
        "classes": _CLASSES.value,
        "queries": _QUERIES.value,
        "neighbours": _NEIGHBOURS.value,
        "iterations": _ITERATIONS.value,
    }
    if _PATH.value:
        print_path(sizes)
        return
    if _ONCE.value:
        print("| | seconds | processor time | MB above the inputs |")
        print("|---|---|---|---|")
        for part in _PARTS.value:
            seconds, processor_seconds, most = once(part, sizes)
            print(f"| {part} | {seconds:.1f} | {processor_seconds:.1f} | {most:.0f} |", flush=True)
        return
    rows = {part: once(part, sizes)[2] for part in _PARTS.value} if _MEMORY.value else {}
    found = timed(calls(_PARTS.value, sizes), _REPETITIONS.value)
    rates = [2 * _SQUARE**3 / seconds for seconds in found["product"]]
    operations = 2 * sizes["rows"] * sizes["width"] * sizes["queries"]
    print("| | seconds | processor time | of the product's rate | MB above the inputs |")
    print("|---|---|---|---|---|")
    for name, (wall, processor) in found.items():
        share = ""
        if name in ("neighbours", "scikit-learn"):
            share = f"{operations / wall / rates[0]:.0%}"
        held = f"{rows[name]:.0f}" if name in rows else ""
        print(f"| {name} | {wall:.3f} | {processor:.3f} | {share} | {held} |")


if __name__ == "__main__":
    app.run(main)
