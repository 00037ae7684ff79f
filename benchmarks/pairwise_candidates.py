"""The candidates of benchmarks/pairwise.py: one problem, its definition, and each library's loss.

All libraries get the same float32 embeddings and labels and are called as their users call them:
JAX compiled, PyTorch eager. Each normalizes the embeddings itself.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

LOSSES = ("supcon", "spread", "info_nce")
ALPHA = 0.5  # of the spread loss
ROWS = 256  # anchors of a block in the definition
OURS = "thanos_jax "  # prefix of an implementation's name


class Problem(NamedTuple):
    """One size of one loss: `entries` = N embeddings of width `dim`, two views of N / 2 images."""

    loss: str
    entries: int
    dim: int
    classes: int
    temperature: float
    seed: int


class Prepared(NamedTuple):
    """A loss on its inputs, ready to run.

    Attributes:
      run: computes one value and gradient, and waits for them.
      read: converts the result of `run` to the value and the gradient, float [N, dim].
      need: bytes that a run needs above its inputs; None if unknown.
      temp: bytes of temporaries by the compiler's count; None without a compiler.
      compile_seconds: time of compilation; None without a compiler.
    """

    run: Callable[[], Any]
    read: Callable[[Any], tuple[float, np.ndarray]]
    need: int | None
    temp: int | None = None
    compile_seconds: float | None = None


class Candidate(NamedTuple):
    """A way to compute a loss.

    Attributes:
      short: its name in a column's title.
      module: the module that must be importable.
      prepare: (problem, platform) -> Prepared; platform is "cpu", "gpu" or "tpu".
      computes: loss -> how the computed function differs; "": it is the same function.
    """

    short: str
    module: str
    prepare: Callable[[Problem, str], Prepared]
    computes: Mapping[str, str]


class CannotRunError(Exception):
    """A candidate cannot run here; the message says why."""


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def inputs(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Returns Gaussian embeddings, float32 [N / 2, 2, dim], and labels, int32 [N / 2].

    Class sizes differ by at most one, and the order is random. For info_nce, which has no classes,
    every image is a class of its own, so that losses with labels compute it too.
    """
    generator = np.random.default_rng((problem.seed, problem.entries))
    images = problem.entries // 2
    embeddings = generator.standard_normal((images, 2, problem.dim), dtype=np.float32)
    labels = generator.permutation(np.arange(images) % problem.classes)
    if problem.loss == "info_nce":
        labels = np.arange(images)
    return embeddings, labels.astype(np.int32)


def definition(problem: Problem) -> tuple[float, np.ndarray]:
    """Computes the loss and its gradient, float64 [N, dim], from the formulas in NumPy.

    It is independent of every candidate. It works in blocks of anchors, so that memory stays linear
    in N, and takes 6 N^2 dim FLOPs in float64.
    """
    embeddings, labels = inputs(problem)
    raw = embeddings.reshape(problem.entries, problem.dim).astype(np.float64)
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    z = raw / length
    number = np.arange(problem.entries)
    image, label = number // 2, np.repeat(labels, 2)
    total, gradient = 0.0, np.zeros_like(z)
    received = np.empty_like(z)
    for start in range(0, problem.entries, ROWS):
        block = slice(start, start + ROWS)
        similarity = z[block] @ z.T / problem.temperature
        other = number[block, None] != number
        same = (label[block, None] == label) & other
        losses, slopes = _contrast(similarity, other, same)
        if problem.loss == "spread":
            own = (image[block, None] == image) & other
            apart, apart_slopes = _contrast(similarity, same, own)
            losses = (1 - ALPHA) * losses + ALPHA * apart
            slopes = (1 - ALPHA) * slopes + ALPHA * apart_slopes
        total += losses.sum()
        gradient[block] += slopes @ z
        gradient += np.matmul(slopes.T, z[block], out=received)
    gradient /= problem.entries * problem.temperature
    gradient = (gradient - z * np.sum(gradient * z, axis=1, keepdims=True)) / length
    return float(total / problem.entries), gradient


def _contrast(
    similarity: np.ndarray, candidates: np.ndarray, positives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns log-sum-exp over candidates less mean over positives, per anchor, and derivatives."""
    largest = similarity.max(axis=1, keepdims=True)
    slopes = np.exp(similarity - largest)
    slopes *= candidates
    totals = slopes.sum(axis=1, keepdims=True)
    shares = positives / positives.sum(axis=1, keepdims=True)
    losses = np.log(totals) + largest - np.einsum("ij,ij->i", shares, similarity)[:, None]
    slopes /= totals
    slopes -= shares
    return losses[:, 0], slopes


def _prepare_jax(
    make: Callable[[Problem], Callable[[Any, Any], Any]], problem: Problem, platform: str
) -> Prepared:
    """Compiles the value and gradient of make(problem), a function of embeddings and labels."""
    import jax

    arrays = [jax.device_put(array) for array in inputs(problem)]
    start = time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(make(problem))).lower(*arrays).compile()
    seconds = time.perf_counter() - start
    analysis = compiled.memory_analysis()
    temp = need = None
    if analysis is not None:
        temp = int(analysis.temp_size_in_bytes)
        need = temp + int(analysis.output_size_in_bytes)

    def read(found: Any) -> tuple[float, np.ndarray]:
        return float(found[0]), np.asarray(found[1]).reshape(problem.entries, problem.dim)

    return Prepared(
        run=lambda: jax.block_until_ready(compiled(*arrays)),
        read=read,
        need=need,
        temp=temp,
        compile_seconds=seconds,
    )


def _prepare_torch(
    make: Callable[[Any, Problem, Any], tuple[Callable[..., Any], list[Any]]],
    bytes_per_pair: int,
    problem: Problem,
    platform: str,
) -> Prepared:
    """Prepares a loss of PyTorch from make(torch, problem, device) -> (loss, leaf tensors).

    The gradient is with respect to the leaves. `bytes_per_pair` was measured on a CPU, as the slope
    of the peak resident size over N^2.
    """
    import torch

    if platform == "tpu" or (platform == "gpu" and not torch.cuda.is_available()):
        raise CannotRunError(f"torch {torch.__version__} cannot use this {platform.upper()}")
    torch.set_num_threads(cores())
    device = torch.device("cuda" if platform == "gpu" else "cpu")
    loss, leaves = make(torch, problem, device)

    def run() -> Any:
        value = loss(*leaves)
        gradients = torch.autograd.grad(value, leaves)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return value.detach(), gradients

    def read(found: Any) -> tuple[float, np.ndarray]:
        value, gradients = found
        # A single leaf holds all entries; two leaves hold the first and the second views.
        gradient = torch.stack([part.cpu() for part in gradients], dim=1).numpy()
        return float(value), gradient.reshape(problem.entries, problem.dim)

    return Prepared(run, read, need=bytes_per_pair * problem.entries**2)


def _thanos(implementation: str, problem: Problem) -> Callable[[Any, Any], Any]:
    from thanos_jax import losses

    common: dict[str, Any] = {"temperature": problem.temperature, "implementation": implementation}
    return {
        "supcon": lambda embeddings, labels: losses.supcon(embeddings, labels, **common),
        "spread": lambda embeddings, labels: losses.spread(
            embeddings, labels, alpha=ALPHA, **common
        ),
        "info_nce": lambda embeddings, labels: losses.info_nce(embeddings, **common),
    }[problem.loss]


def _optax(problem: Problem) -> Callable[[Any, Any], Any]:
    import jax.numpy as jnp
    import optax

    return lambda embeddings, labels: optax.losses.ntxent(
        embeddings.reshape(problem.entries, problem.dim),
        jnp.repeat(labels, 2),
        problem.temperature,
    )


def _metric_learning(torch: Any, problem: Problem, device: Any) -> tuple[Any, list[Any]]:
    from pytorch_metric_learning.losses import SupConLoss

    embeddings, labels = inputs(problem)
    leaf = torch.tensor(embeddings.reshape(problem.entries, problem.dim), device=device)
    label = torch.tensor(np.repeat(labels, 2), dtype=torch.int64, device=device)
    loss = SupConLoss(temperature=problem.temperature)
    return lambda leaf: loss(leaf, label), [leaf.requires_grad_()]


def _lightly(torch: Any, problem: Problem, device: Any) -> tuple[Any, list[Any]]:
    from lightly.loss import NTXentLoss

    embeddings, _ = inputs(problem)
    leaves = [torch.tensor(embeddings[:, view], device=device) for view in (0, 1)]
    loss = NTXentLoss(temperature=problem.temperature)
    return loss, [leaf.requires_grad_() for leaf in leaves]


PEERS = {
    "pytorch-metric-learning SupConLoss": Candidate(
        "pml",
        "pytorch_metric_learning",
        functools.partial(_prepare_torch, _metric_learning, 50),
        {"supcon": "", "info_nce": ""},
    ),
    "lightly NTXentLoss": Candidate(
        "lightly",
        "lightly",
        functools.partial(_prepare_torch, _lightly, 22),
        {"info_nce": ""},
    ),
    "optax ntxent": Candidate(
        "optax",
        "optax",
        functools.partial(_prepare_jax, _optax),
        {
            "info_nce": "",
            "supcon": "one positive and the negatives in the denominator, mean over pairs",
        },
    ),
}


def find(name: str) -> Candidate:
    """Returns the peer of a name, or this package's candidate "thanos_jax IMPLEMENTATION"."""
    if name in PEERS:
        return PEERS[name]
    implementation = name.removeprefix(OURS)
    return Candidate(
        implementation,
        "thanos_jax",
        functools.partial(_prepare_jax, functools.partial(_thanos, implementation)),
        dict.fromkeys(LOSSES, ""),
    )


def why_not(name: str, loss: str) -> str:
    """Returns the reason why a candidate cannot run at all, or ""."""
    candidate = find(name)
    if loss not in candidate.computes:
        return "has no such loss"
    if importlib.util.find_spec(candidate.module) is None:
        return "not installed"
    return ""
