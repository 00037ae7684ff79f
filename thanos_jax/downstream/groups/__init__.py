"""Hidden groups within classes: recovered by clustering embeddings, and scored.

recover.py clusters each class by one of two rules: GEORGE's (silhouette.py) or ours (error.py).
scores.py compares recovered groups with true ones, and measures a classifier on each group.
"""

from thanos_jax.downstream.groups.clusters import Clustering
from thanos_jax.downstream.groups.error import ErrorRule
from thanos_jax.downstream.groups.recover import RULES, Recovered, assign, recover
from thanos_jax.downstream.groups.scores import group_accuracy, group_auroc, recovery_scores
from thanos_jax.downstream.groups.silhouette import SilhouetteRule

__all__ = [
    "RULES",
    "Clustering",
    "ErrorRule",
    "Recovered",
    "SilhouetteRule",
    "assign",
    "group_accuracy",
    "group_auroc",
    "recover",
    "recovery_scores",
]
