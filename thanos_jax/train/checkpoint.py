"""Checkpoints, by Orbax: the only module that knows it."""

from __future__ import annotations

import os
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one run, in one folder; a context manager.

    A save is asynchronous and appears under its step's name only when it is complete, so a run that
    is killed while saving continues from the save before.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int) -> None:
        """Opens a folder, made if need be.

        Args:
          folder: where checkpoints lie.
          keep: how many of the newest stay.
        """
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(os.path.abspath(folder), options=options)

    def save(self, state: Any, step: int) -> None:
        """Begins to save a pytree of arrays under its step; a step already saved stays as it is."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def latest_step(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def restore(self, like: Any, step: int) -> Any:
        """Returns the state saved at `step`.

        Args:
          like: a state of the same structure, shapes, dtypes and shardings.
          step: one that was saved.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for saves under way, then closes."""
        self._manager.wait_until_finished()
        self._manager.close()
