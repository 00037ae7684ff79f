"""Whole runs of several trainings, each of which resumes; `thanos_jax.run` chooses among them."""
