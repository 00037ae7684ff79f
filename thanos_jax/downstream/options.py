"""Option names for the config schema, kept apart from code that imports scikit-learn."""

from __future__ import annotations

# Projections of `projection.project`.
MAP_PROJECTIONS = ("tsne", "opentsne")
# Clustering methods of `groups.clusters`, and projections of embeddings before clustering.
CLUSTERINGS = ("kmeans", "gmm")
CLUSTER_PROJECTIONS = ("none", "umap")
