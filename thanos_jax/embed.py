r"""Command that computes embeddings and predictions of images with the model of a run.

    python -m thanos_jax.embed --workdir=DIR --images=FOLDER|CSV|tfds:NAME --out=PATH

PATH.npz and PATH.parquet are written as one file; any other PATH is a folder of shards. If the
command is stopped, the same command continues a folder of shards. Several processes (launch/) share
the shards. docs/after_training.md describes the files.
"""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Sequence

from absl import flags

from thanos_jax import command, processes

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.")
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "A folder of images, a CSV with the column filename, or tfds:NAME[/CONFIG][:VERSION].",
)
_OUT = flags.DEFINE_string("out", None, "PATH.npz or PATH.parquet, one file; or a folder.")
_PART = flags.DEFINE_string(
    "part", None, "Training of the run, representation or classifier; by default the last one."
)
_STEP = flags.DEFINE_integer("step", None, "Step of the checkpoint; by default the reported one.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of tfds:NAME.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of prepared TFDS data, for tfds:NAME.")
_BATCH = flags.DEFINE_integer(
    "batch_size", None, "Images encoded at a time; by default as in the run.", lower_bound=1
)
_THREADS = flags.DEFINE_integer(
    "read_threads", 0, "Threads that read images; 0: one per processor.", lower_bound=0
)
_DAMAGED = flags.DEFINE_enum(
    "on_damaged", "stop", ["stop", "skip"], "What to do when an image cannot be read."
)
_NORMALIZE = flags.DEFINE_bool("normalize", False, "Divides each embedding by its length.")
_ROWS = flags.DEFINE_integer("shard_rows", 65_536, "Images in a shard.", lower_bound=1)
_FORMAT = flags.DEFINE_enum("shard_format", "npz", ["npz", "parquet"], "Format of shards.")


def main(argv: Sequence[str]) -> None:
    """Embeds images and prints their number and the speed."""
    processes.join()
    # Files are written whole, so a signal may end the process at once; jax would delay it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    from thanos_jax.trained import embeddings, images  # not before --help: jax is slow to import
    from thanos_jax.trained.loading import load

    out = pathlib.Path(str(_OUT.value)).expanduser()
    model = load(str(_WORKDIR.value), step=_STEP.value, part=_PART.value)
    source = images.open_source(
        str(_IMAGES.value), model.rule, split=_SPLIT.value, data_dir=_DATA_DIR.value
    )
    print(f"{model.part} of step {model.step}; {len(source.names):,} images", flush=True)
    settings = embeddings.Settings(_BATCH.value, _THREADS.value, _DAMAGED.value, _NORMALIZE.value)
    if out.suffix in (".npz", ".parquet"):
        done = embeddings.to_file(model, source, out, settings)
    else:
        done = embeddings.to_shards(
            model, source, out, settings, shard_rows=_ROWS.value, form=_FORMAT.value
        )
    speed = f": {done.images / done.seconds:,.0f} images/s" if done.images else ""
    left_out = f" ({done.skipped:,} left out)" if done.skipped else ""
    print(f"{done.images:,} images{left_out} in {done.seconds:.1f} s{speed}")
    print(f"embeddings: {out}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "images", "out"])
    command.start(main)
