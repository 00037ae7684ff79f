"""Losses of examples under a linear classifier that was not trained on them."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from thanos_jax.downstream.partition import in_groups

_FOLDS = 5


def cross_fitted_losses(points: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns each example's loss under a classifier trained on the other folds, float64 [n].

    Args:
      points: float64 [n, d].
      labels: integer [n].
      seed: draws the folds.
    """
    # Each class is dealt out to the folds in turn, so that classes of two and more examples are
    # always in training. The only example of a class is never left out; its loss stays 0.
    order = np.random.default_rng(seed).permutation(len(labels))
    _, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rows, place = in_groups(order, group)
    fold = np.empty(len(labels), np.int64)
    fold[rows] = place % _FOLDS
    fold[counts[group] == 1] = -1
    losses = np.zeros(len(labels))
    for one in np.unique(fold[fold >= 0]):
        left_out = fold == one
        losses[left_out] = classifier_losses(
            points[~left_out], labels[~left_out], points[left_out], labels[left_out]
        )
    return losses


def classifier_losses(
    points: np.ndarray, labels: np.ndarray, others: np.ndarray, other_labels: np.ndarray
) -> np.ndarray:
    """Fits logistic regression to points and returns the losses of other examples, float64 [m].

    Points are standardized first; the L2 weight is 1/n.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with warnings.catch_warnings():
        # A fit that has not quite converged is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(points, labels)
    with np.errstate(divide="ignore"):  # a probability that underflows has the logarithm -inf
        log_probabilities = classifier.predict_log_proba(others)
    columns = np.searchsorted(classifier.classes_, other_labels)
    return np.minimum(-log_probabilities[np.arange(len(others)), columns], 700.0)
