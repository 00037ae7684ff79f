"""Logs a run for TensorBoard, in its folder tensorboard/, by tensorboardX, without TensorFlow.

Each training has a folder there, which TensorBoard shows as a run. Its events are rewritten from
metrics.jsonl whenever the run starts, so that no step occurs twice.
"""

from __future__ import annotations

import io
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from thanos_jax.live import pictures
from thanos_jax.live.contract import Backend, Ending, Logger, Points, terms
from thanos_jax.workdir import (
    EVENTS,
    PROJECTOR,
    PROJECTOR_CONFIG,
    TENSORBOARD,
)

# Flushing waits for the disk.
_FLUSH_SECONDS = 10.0


def _load() -> Any:
    import tensorboardX

    return tensorboardX


def _open(folder: pathlib.Path, config: Mapping[str, Any]) -> Logger:
    """Opens the log of a run; arguments of `Backend.open`.

    Raises:
      OSError: the folder cannot be written.
    """
    from tensorboardX import summary
    from tensorboardX.proto.summary_pb2 import Summary

    root = folder / TENSORBOARD
    root.mkdir(parents=True, exist_ok=True)
    files = _Files(root)

    def scalars(training: str, record: Mapping[str, Any], when: float) -> None:
        values = [Summary.Value(tag=f"train/{k}", simple_value=v) for k, v in terms(record).items()]
        files.write(training, Summary(value=values), record["step"], when)

    def images(training: str, step: int, named: Mapping[str, np.ndarray]) -> None:
        for name, picture in named.items():
            found = Summary.Image(
                height=picture.shape[0],
                width=picture.shape[1],
                colorspace=picture.shape[2],
                encoded_image_string=_png(picture),
            )
            value = Summary.Value(tag=name, image=found)
            files.write(training, Summary(value=[value]), step, time.time())

    def finish(ending: Ending | None) -> None:
        if ending is not None:
            tagged = {f"results/{name}": value for name, value in ending.results.items()}
            values = [Summary.Value(tag=tag, simple_value=v) for tag, v in tagged.items()]
            files.write("", Summary(value=values), ending.step, time.time())
            plain = {
                k: v if isinstance(v, str | int | float) else str(v) for k, v in config.items()
            }
            headlines = {tag: value for tag, value in tagged.items() if tag.count("/") == 1}
            for found in summary.hparams(plain, headlines):
                files.write("", found, None, time.time())
            if ending.points is not None:
                write_projector(root, ending.points)
        files.close()

    return Logger(scalars, images, finish)


class _Files:
    """The event files of a run's trainings.

    They are written in the calling thread. tensorboardX's own writers use another thread: an error
    there, such as a full disk, is lost, and the next calls wait forever.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root
        self._files: dict[str, Any] = {}
        self._flushed = 0.0

    def write(self, training: str, summary: Any, step: int | None, when: float) -> None:
        """Appends a summary to the file of a training."""
        from tensorboardX.proto.event_pb2 import Event

        file = self._files.get(training) or self._open(training)
        file.write_event(Event(step=step, wall_time=when, summary=summary))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Closes all files."""
        for file in self._files.values():
            file.close()

    def _open(self, training: str) -> Any:
        from tensorboardX.event_file_writer import EventsWriter

        folder = self._root / training
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"events.out.tfevents.*{EVENTS}"):
            old.unlink()
        self._files[training] = EventsWriter(str(folder / "events"), EVENTS)
        return self._files[training]


def write_projector(root: pathlib.Path, points: Points) -> None:
    """Writes the files of TensorBoard's projector: tables of points and a sprite of their images.

    Args:
      root: folder of the log; existing files of the projector are replaced.
      points: at most as many as a sprite can hold.
    """
    folder = root / PROJECTOR
    folder.mkdir(exist_ok=True)
    np.savetxt(folder / "tensors.tsv", points.embedding, fmt="%.6g", delimiter="\t")
    # Tabs and line breaks, which the name of a class may contain, would break the table.
    columns = [[" ".join(str(v).split()) for v in column] for column in points.columns.values()]
    lines = ["\t".join(line) for line in zip(*columns, strict=True)]
    header = ["\t".join(points.columns)] if len(columns) > 1 else []  # a single column has none
    text = "\n".join([*header, *lines]) + "\n"
    (folder / "metadata.tsv").write_text(text, encoding="utf-8")
    (folder / "sprite.png").write_bytes(_png(pictures.sprite(points.thumbnails)))
    side = points.thumbnails.shape[1]
    (root / PROJECTOR_CONFIG).write_text(
        "embeddings {\n"
        '  tensor_name: "embedding"\n'
        f'  tensor_path: "{PROJECTOR}/tensors.tsv"\n'
        f'  metadata_path: "{PROJECTOR}/metadata.tsv"\n'
        f'  sprite {{\n    image_path: "{PROJECTOR}/sprite.png"\n'
        f"    single_image_dim: {side}\n    single_image_dim: {side}\n  }}\n}}\n",
        encoding="utf-8",
    )


def _png(picture: np.ndarray) -> bytes:
    """Encodes a picture, uint8 [h, w, 1 or 3], as PNG, with the fastest compression."""
    buffer = io.BytesIO()
    shown = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(shown).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


BACKEND = Backend("tensorboardX", _load, _open)
