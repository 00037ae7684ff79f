"""Names of the options that the schema offers, apart from code that imports scikit-learn."""

from __future__ import annotations

# What `projection.project` may make a map by.
MAP_PROJECTIONS = ("tsne", "opentsne")
# How `groups.clusters` finds the clusters of a class, and what it may project embeddings by.
CLUSTERINGS = ("kmeans", "gmm")
CLUSTER_PROJECTIONS = ("none", "umap")
