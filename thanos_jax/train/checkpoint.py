"""Checkpoints, written atomically by Orbax and verified by checksums when they are read.

This is the only module that uses Orbax. The checkpoint of step 200 is the folder 200 with

    arrays/         every array of the state by name, such as params.encoder.kernel; by Orbax
    checksums.json  digests of every array and file, the step, date and metrics

A background thread writes it as 200.tmp and renames it when it is complete.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import errno
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from thanos_jax.errors import UserError
from thanos_jax.train import checksums
from thanos_jax.train.metrics import NonFiniteError
from thanos_jax.workdir import write_atomically

_ARRAYS = "arrays"
_TEMPORARY = ".tmp"
_DAMAGED = ".damaged"
_SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)


class CheckpointError(UserError):
    """A checkpoint could not be written, or cannot be used."""


class DamagedError(CheckpointError):
    """The files or arrays of a checkpoint differ from what was written."""


class Checkpoints:
    """The checkpoints of one run, in one folder; a context manager.

    All processes must make the same calls; only the first one writes, and each reads for itself. A
    run that is killed while saving continues from the previous checkpoint.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int,
        best: str | None = None,
        keep_every: int = 0,
    ) -> None:
        """Opens or creates a folder, and removes the remains of interrupted saves.

        Args:
          folder: folder of the checkpoints.
          keep: number of newest checkpoints that are kept.
          best: the metric of `save` whose highest checkpoint is kept too; None: none is.
          keep_every: the first checkpoint in every `keep_every` steps is kept too; 0: none is.

        Raises:
          CheckpointError: the folder cannot be created.
        """
        self._folder = pathlib.Path(os.path.abspath(folder))
        self._retention: dict[str, Any] = {"newest": keep, "best": best, "every": keep_every}
        self._metrics: dict[int, dict[str, float]] = {}
        self._saving: tuple[int, concurrent.futures.Future[None]] | None = None
        self._executor = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints: the folder {self._folder} cannot be made: {error.strerror}"
            ) from error
        if jax.process_index():
            return
        for leftover in self._folder.glob(f"*{_TEMPORARY}"):
            shutil.rmtree(leftover, ignore_errors=True)

    def save(self, state: Any, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving a pytree of arrays under its step.

        A step that is already saved is not written again. Metrics are added to it if it has none,
        because a run that is stopped saves before it evaluates.

        The call waits for the previous save and copies the state to the host. The rest runs in the
        background, so that the following steps may donate the state.

        Args:
          state: pytree of arrays, on the host or on devices.
          step: number of the step, >= 0.
          metrics: numbers to store with the checkpoint.

        Raises:
          NonFiniteError: the state has a NaN or infinite value.
          CheckpointError: the previous save failed.
        """
        self.wait()
        if step in steps(self._folder):
            if metrics and not jax.process_index():
                self._annotate(step, metrics)
            return
        arrays = _on_host(named(state))
        # Checked on the host copy, in milliseconds; a device program would take seconds to compile.
        for name, array in arrays.items():
            if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
                count = int(array.size - np.isfinite(array).sum())
                raise NonFiniteError(
                    f"step {step}: {count} of the {array.size} values of {name} are not finite; "
                    f"nothing was saved. {_newest(self._folder)}"
                )
        if jax.process_index():
            return
        numbers = {key: float(value) for key, value in (metrics or {}).items()}
        self._saving = (step, self._executor.submit(self._write, arrays, step, numbers))

    def check(self) -> None:
        """Raises the error of a save that has failed; cheap enough for every step.

        Raises:
          CheckpointError: the message names the folder, the step and the cause. Later saves are
            still tried.
        """
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits for the save in progress, if any.

        Raises:
          CheckpointError: as `check`.
        """
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        try:
            future.result()
        except Exception as error:
            raise CheckpointError(
                f"checkpoints: step {step} could not be saved in {self._folder}: {_cause(error)}. "
                f"{_newest(self._folder)} Mend the cause, and give the same command again."
            ) from error

    def restore(self, like: Any, step: int) -> Any:
        """Returns the state saved at `step`; see the function `restore`."""
        self.wait()
        return restore(self._folder, like, step)

    def restore_latest(self, like: Any) -> tuple[Any, int] | None:
        """Returns the newest undamaged state and its step; None if there is no checkpoint.

        Damaged checkpoints are reported on stderr, and renamed to STEP.damaged once an undamaged
        one is found.

        Args:
          like: as for `restore`.

        Raises:
          CheckpointError: all checkpoints are damaged; or, as for `restore`, the newest undamaged
            one has another state.
        """
        self.wait()
        skipped: dict[int, str] = {}
        for step in reversed(steps(self._folder)):
            try:
                state = self.restore(like, step)
            except DamagedError as error:
                skipped[step] = str(error)
                print(f"WARNING: skipping a damaged {error}", file=sys.stderr, flush=True)
                continue
            # The run will reach these steps again, and their names must be free by then.
            for number in skipped if jax.process_index() == 0 else ():
                _set_aside(self._folder / str(number))
            return state, step
        if skipped:
            raise CheckpointError(
                f"checkpoints: all {len(skipped)} in {self._folder} are damaged:\n"
                + "\n".join(f"  {message}" for message in skipped.values())
                + "\nPut undamaged copies there, or delete the folder to begin again at step 0."
            )
        return None

    def _write(self, arrays: dict[str, np.ndarray], step: int, metrics: dict[str, float]) -> None:
        """Writes a checkpoint, then removes those not kept; runs in a background thread."""
        temporary = self._folder / f"{step}{_TEMPORARY}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            digests = checksums.of_arrays(arrays)
            with _orbax() as writer:
                writer.save(temporary / _ARRAYS, args=ocp.args.PyTreeSave(arrays))
            text = checksums.dumps(
                step=step,
                saved=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                metrics=metrics,
                arrays=digests,
                files=checksums.of_files(temporary),
            )
            (temporary / checksums.FILE).write_text(text, encoding="utf-8")
            os.rename(temporary, self._folder / str(step))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the space
            raise
        self._metrics[step] = metrics
        self._remove()

    def _annotate(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to a checkpoint that has none."""
        path = self._folder / str(step)
        contents = read_contents(path)
        if contents["metrics"]:
            return
        self._metrics[step] = {key: float(value) for key, value in metrics.items()}
        annotated = {**contents, "metrics": self._metrics[step]}
        write_atomically(path / checksums.FILE, checksums.dumps(**annotated))
        self._remove()

    def _remove(self) -> None:
        """Removes the checkpoints that are not kept."""
        there = steps(self._folder)
        for number in there:
            if number not in self._metrics:
                try:
                    self._metrics[number] = read_contents(self._folder / str(number))["metrics"]
                except DamagedError:
                    self._metrics[number] = {}
        for number in set(there) - kept(there, self._metrics, **self._retention):
            # Renamed first, so that a partly removed checkpoint never looks complete.
            leaving = self._folder / f"{number}{_TEMPORARY}"
            os.rename(self._folder / str(number), leaving)
            shutil.rmtree(leaving, ignore_errors=True)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        """Waits for the save in progress; its error does not replace one already being raised."""
        try:
            self.wait()
        except CheckpointError as error:
            if kind is None:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)
        finally:
            self._executor.shutdown()


def kept(
    steps: Sequence[int],
    metrics: Mapping[int, Mapping[str, float]],
    *,
    newest: int,
    best: str | None,
    every: int,
) -> set[int]:
    """Returns the steps whose checkpoints are kept.

    Args:
      steps: all saved steps, ascending.
      metrics: step -> the metrics saved with it.
      newest: number of last steps that are kept.
      best: the metric whose highest step is kept, the latest one among equals; None: none is.
      every: n; the first step of n .. 2n - 1 is kept, of 2n .. 3n - 1, and so on; 0: none is.
    """
    stay = set(steps[-newest:])
    # NaN metrics are ignored.
    measured = [s for s in steps if metrics[s].get(best or "", np.nan) > -np.inf]
    if best and measured:
        stay.add(max(measured, key=lambda step: (metrics[step][best], step)))
    if every:
        first = {step // every: step for step in reversed(steps) if step >= every}
        stay |= set(first.values())
    return stay


def steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, ascending; [] without a folder."""
    if not folder.is_dir():
        return []
    # Only names that `save` writes: str.isdecimal alone accepts 007 and digits of other scripts.
    names = [path.name for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    return sorted(int(name) for name in names if str(int(name)) == name)


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by name, in order; names are paths such as opt_state.0.mu.

    Raises:
      ValueError: two leaves have the same name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    if len(found) < len(leaves):
        raise ValueError("two leaves of the state have the same path but for dots in its keys")
    return found


def restore(folder: pathlib.Path, like: Any, step: int) -> Any:
    """Returns the state saved at `step`, with the same bits; changes nothing in the folder.

    Args:
      folder: folder of the checkpoints; a run may be writing to it.
      like: a state with the same structure, shapes and dtypes, and with the sharding that the
        restored arrays should have.
      step: a saved step.

    Raises:
      DamagedError: the checkpoint is damaged; the message names the file or array.
      CheckpointError: it has another state; the message names the first array that differs.
    """
    return _restore(folder, like, step, part=False)


def restore_part(folder: pathlib.Path, like: Any, step: int) -> Any:
    """As `restore`, for a part of the saved state: `like` has only some of the arrays."""
    return _restore(folder, like, step, part=True)


def _restore(folder: pathlib.Path, like: Any, step: int, *, part: bool) -> Any:
    path = folder.absolute() / str(step)
    contents = read_contents(path)
    leaves = named(like)
    there = contents["arrays"]
    _require_same(path, {k: v for k, v in there.items() if not part or k in leaves}, leaves)
    arrays = read_arrays(path, contents)
    placed = [_placed(arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def read_contents(path: pathlib.Path) -> dict[str, Any]:
    """Returns the contents of a checkpoint's checksums.json, after checking its own digest.

    Args:
      path: the checkpoint's folder, named by its step.

    Raises:
      DamagedError: the file is missing, damaged, or belongs to another step.
    """
    try:
        contents = checksums.loads((path / checksums.FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"checkpoint {path}: file {checksums.FILE} is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"checkpoint {path}: file {checksums.FILE}: {error}") from error
    if str(contents["step"]) != path.name:
        raise DamagedError(f"checkpoint {path}: it was saved as step {contents['step']}")
    return contents


def read_arrays(path: pathlib.Path, contents: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by name, after checking every byte.

    Args:
      path: the checkpoint's folder.
      contents: from `read_contents`.

    Raises:
      DamagedError: a file or array is damaged.
      CheckpointError: Orbax cannot read the undamaged files.
    """
    # Files first, so that no damaged byte reaches a parser, and the message names the file.
    damage = checksums.damaged_file(path, contents["files"])
    if damage:
        raise DamagedError(f"checkpoint {path}: {damage}")
    names = list(contents["arrays"])
    try:
        with _orbax() as reader:
            arrays = reader.restore(
                path / _ARRAYS,
                args=ocp.args.PyTreeRestore(
                    item=dict.fromkeys(names, 0),
                    restore_args={n: ocp.RestoreArgs(restore_type=np.ndarray) for n in names},
                ),
            )
    except Exception as error:  # Orbax raises many kinds
        raise CheckpointError(
            f"checkpoint {path}: its files are as they were written, but Orbax {ocp.__version__} "
            f"cannot read them: {type(error).__name__}: {_first_line(error)}"
        ) from error
    damage = checksums.damaged_array(arrays, contents["arrays"])
    if damage:
        raise DamagedError(f"checkpoint {path}: {damage}")
    return arrays


def damaged(folder: pathlib.Path, step: int) -> str | None:
    """Reads a checkpoint in full; returns a description of its damage, or None.

    Args:
      folder: folder of the checkpoints.
      step: step of the checkpoint.
    """
    path = folder / str(step)
    try:
        read_arrays(path, read_contents(path))
    except CheckpointError as error:
        return str(error)
    return None


def _orbax() -> ocp.Checkpointer:
    """Returns an Orbax checkpointer of this process alone, which waits for no other process."""
    here = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _on_host(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns host copies of arrays by name, which later steps cannot change."""
    local = {}
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array):
            if not leaf.is_fully_addressable:
                if not leaf.is_fully_replicated:
                    raise ValueError(f"{name}: expected all of it in this process, or a copy")
                leaf = leaf.addressable_data(0)
            leaf.copy_to_host_async()
        local[name] = leaf
    return {name: np.array(leaf, order="C") for name, leaf in local.items()}


def _placed(array: np.ndarray, like: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return array
    # Every process provides the shards of its own devices.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _require_same(
    path: pathlib.Path, there: Mapping[str, Mapping[str, Any]], here: Mapping[str, Any]
) -> None:
    """Raises CheckpointError if two states differ; the message names the first such array."""

    def described(names: Mapping[str, Any], name: str) -> str:
        if name not in names:
            return "no such array"
        return f"{names[name]['dtype']}{names[name]['shape']}"

    wanted = {
        name: {
            "dtype": np.dtype(getattr(leaf, "dtype", None) or np.asarray(leaf).dtype).name,
            "shape": list(np.shape(leaf)),
        }
        for name, leaf in here.items()
    }
    for name in [*wanted, *(name for name in there if name not in wanted)]:
        was, now = described(there, name), described(wanted, name)
        if was != now:
            raise CheckpointError(
                f"checkpoint {path}: it holds another state, which differs at {name}: {was} was "
                f"saved, {now} is expected. Give the config that it was saved with, or another "
                "workdir."
            )


def _set_aside(path: pathlib.Path) -> None:
    target = path.with_name(path.name + _DAMAGED)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(path, target)


def _newest(folder: pathlib.Path) -> str:
    newest = max(steps(folder), default=None)
    if newest is None:
        return "There is none yet."
    return f"The newest checkpoint is that of step {newest}."


def _cause(error: BaseException) -> str:
    # Orbax quotes the system's message, if at all, in the middle of a long line.
    for code in _SYSTEM_ERRORS:
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            return os.strerror(code)
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]
