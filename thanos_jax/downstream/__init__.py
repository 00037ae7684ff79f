"""Evaluations of a frozen encoder: functions of (embeddings, labels) that return named numbers.

transfer.py asks whether coarse training serves fine labels, geometry.py whether classes collapsed.
"""
