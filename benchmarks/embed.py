r"""Times the embedding of images, compared with reading alone and the forward pass alone.

    python benchmarks/embed.py --workdir=DIR --images=tfds:mnist --split=train --data_dir=DATA

DIR is the folder of a run; --images as for thanos_jax.embed. All three are measured in turns in one
process, --repeats times. The shortest times and images per second are printed, and the speed of
embedding as a share of the slower part's. At 1 the slower part hides the other completely.
"""

from __future__ import annotations

import collections
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from thanos_jax.trained import embeddings, images
from thanos_jax.trained.loading import load
from thanos_jax.trained.model import Model

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.")
_IMAGES = flags.DEFINE_string("images", None, "As for thanos_jax.embed.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of tfds:NAME.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of prepared TFDS data.")
_THREADS = flags.DEFINE_integer("read_threads", 0, "As for thanos_jax.embed.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Number of measurements of each.")
_OUTPUTS = ("embedding", "prediction", "probability")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    model = load(str(_WORKDIR.value))
    source = images.open_source(
        str(_IMAGES.value), model.rule, split=_SPLIT.value, data_dir=_DATA_DIR.value
    )
    settings = embeddings.Settings(read_threads=_THREADS.value)
    shards = [range(len(source.names))]

    def read() -> Any:
        return embeddings.read_ahead(model, source, shards, settings)

    stored = np.concatenate([part.images for _, part in read()])
    _forward(model, stored)  # compiles
    seconds: dict[str, list[float]] = {"reading": [], "forward pass": [], "embedding": []}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "out.npz"
        for _ in range(_REPEATS.value):
            _time(seconds["reading"], lambda: collections.deque(read(), maxlen=0))
            _time(seconds["forward pass"], lambda: _forward(model, stored))
            _time(seconds["embedding"], lambda: embeddings.to_file(model, source, path, settings))
    shortest = {name: min(found) for name, found in seconds.items()}
    for name, value in shortest.items():
        print(f"{name}: {value:.2f} s, {len(stored) / value:,.0f} images/s")
    slower = max(shortest["reading"], shortest["forward pass"])
    print(f"embedding reaches {slower / shortest['embedding']:.2f} of the slower of the two")


def _time(found: list[float], call: Callable[[], Any]) -> None:
    started = time.perf_counter()
    call()
    found.append(time.perf_counter() - started)


def _forward(model: Model, stored: np.ndarray) -> None:
    """Runs all images through the model as embedding does."""
    under_way: collections.deque[Any] = collections.deque()
    for start in range(0, len(stored), model.batch_size):
        under_way.append(model.submit(stored[start : start + model.batch_size], _OUTPUTS))
        if len(under_way) > 2:
            under_way.popleft()()
    for wait in under_way:
        wait()


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "images"])
    app.run(main)
