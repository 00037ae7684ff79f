"""Evaluations of a frozen encoder: functions of (embeddings, labels) that return named numbers.

transfer.py measures coarse-to-fine transfer, geometry.py class collapse, noisy_labels.py finds
wrong labels, coreset.py chooses images to keep, and groups/ recovers hidden groups.
"""
