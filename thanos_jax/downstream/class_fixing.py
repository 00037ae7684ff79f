"""The invariance behind class collapse: permutations within a class do not change the loss.

A loss of the set of pairs (embedding, coarse label) keeps its value when embeddings are permuted
among images of the same coarse class, but the embeddings no longer predict fine labels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thanos_jax import losses
from thanos_jax.checks import check_at_least, check_labels, check_option, check_seed
from thanos_jax.downstream import placing, transfer
from thanos_jax.downstream.arrays import check_strata
from thanos_jax.permutations import permutation

CLASSIFIERS = ("class_means", "nearest_neighbours")

# Compiled once: calls with as many embeddings share one program.
_supcon = jax.jit(losses.supcon, static_argnames="temperature")


def permute_within_class(labels: Any, seed: int) -> np.ndarray:
    """Draws a uniformly random permutation that exchanges members of the same class only.

    Args:
      labels: integer [n], any values, n at least 1.
      seed: integer in [0, 2**64).

    Returns:
      int64 [n] p with labels[p] == labels; `embeddings[p]` gives image i the embedding of p[i].

    Raises:
      TypeError: labels or seed are not integers.
      ValueError: labels are not [n], or the seed is out of range.
    """
    labels = check_labels(labels, "labels", least=1)
    shuffled = permutation(seed, 0, len(labels))
    found = np.empty(len(labels), np.int64)
    # Both orders list class after class; within a class one is ascending, the other shuffled.
    found[np.argsort(labels, kind="stable")] = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return found


def class_fixing_permutation_test(
    embeddings: Any,
    fine: Any,
    coarse: Any,
    *,
    permutations: int = 20,
    samples: int = 2048,
    temperature: float = 0.5,
    classifier: str = "class_means",
    neighbours: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Measures loss and fine accuracy before and after permutations within coarse classes.

        loss                    SupCon of the embeddings, one view each, by coarse label
        loss_change             largest |loss after - loss before|: rounding of float32
        fine_accuracy           accuracy on fine labels, fitted on one half, tested on the other
        fine_accuracy_permuted  its mean after permutations: the accuracy that coarse classes, and
                                the frequencies of fine labels in them, allow by themselves
        p_value                 (1 + permutations that reach fine_accuracy) / (1 + permutations)

    The null hypothesis is that embeddings carry no information on fine labels beyond the coarse
    label. All arrangements of embeddings within a class are then equally likely, and p_value is at
    most a with probability at most a. Its smallest possible value is 1 / (1 + permutations).

    Args:
      embeddings: floating point [n, d], n at least 2. A jax array whose rows are split over devices
        stays there, except for the samples; every process of the job makes this call.
      fine: integer [n], any values.
      coarse: integer [n], any values.
      permutations: number of permutations, at least 1.
      samples: at most this many embeddings are used, drawn at random; at least 2. The loss compares
        all of them with each other.
      temperature: of the loss.
      classifier: "class_means" or "nearest_neighbours", of `thanos_jax.downstream.transfer`.
      neighbours: of "nearest_neighbours", at least 1.
      seed: of the samples, the halves and the permutations; in [0, 2**63).

    Returns:
      The figures above by name.

    Raises:
      TypeError: embeddings are not floating point, or labels or the seed not integers.
      ValueError: a wrong shape, embeddings not finite, fewer than two embeddings or samples, no
        permutations, an unknown classifier, or a seed out of range.

    Source: the class-fixing permutations of Chen, Fu et al., "Perfectly Balanced", arXiv
    2204.07596.
    """
    embeddings, fine, coarse = check_strata(embeddings, fine, coarse, least=2)
    check_at_least("permutations", permutations, 1)
    check_at_least("samples", samples, 2)
    check_option("classifier", classifier, CLASSIFIERS)
    check_seed(seed, 63)

    # The rows come in random order, so that their first half is a random half.
    drawn = permutation(seed, 0, len(embeddings))[:samples]
    embeddings, fine, coarse = placing.take(embeddings, drawn), fine[drawn], coarse[drawn]
    half = len(drawn) // 2
    # jax holds labels in 32 bits.
    classes = jnp.asarray(np.unique(coarse, return_inverse=True)[1], jnp.int32)

    def loss(rows: np.ndarray) -> float:
        return float(_supcon(rows, classes, temperature=temperature))

    def accuracy(rows: np.ndarray) -> float:
        known = (rows[:half], fine[:half], rows[half:])
        if classifier == "class_means":
            predictions = transfer.class_means(*known)
        else:
            predictions = transfer.nearest_neighbours(*known, k=neighbours)
        return float(np.mean(predictions == fine[half:]))

    loss_before, accuracy_before = loss(embeddings), accuracy(embeddings)
    losses_after, accuracies_after = [], []
    for index in range(permutations):
        # The upper half of the seeds: the seed itself has drawn the samples.
        permuted = embeddings[permute_within_class(coarse, 2**63 + (seed + index) % 2**63)]
        losses_after.append(loss(permuted))
        accuracies_after.append(accuracy(permuted))
    reached = int(np.sum(np.array(accuracies_after) >= accuracy_before))
    return {
        "loss": loss_before,
        "loss_change": float(np.max(np.abs(np.array(losses_after) - loss_before))),
        "fine_accuracy": accuracy_before,
        "fine_accuracy_permuted": float(np.mean(accuracies_after)),
        "p_value": (1 + reached) / (1 + permutations),
    }
