r"""Writes a data set as decoded, resized pixels, for sets that are read many times.

    python -m thanos_jax.cache --config=configs/folder.py --config.data.data_dir=DIR \
        --config.data.image_size=224 --out=CACHE

A run on the same data then reads the cache with --config.data.cache=CACHE; pixels, splits and
results are the same as without it. If the command is stopped, the same command continues.
docs/input.md has the costs and gains.
"""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from thanos_jax import command
from thanos_jax.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration, a Python file (it is run).", lock_config=True
)
_OUT = flags.DEFINE_string("out", None, "Folder of the cache.")
_ROWS = flags.DEFINE_integer("shard_rows", 8192, "Images in a shard.", lower_bound=1)
_THREADS = flags.DEFINE_integer(
    "read_threads", 0, "Threads that read images; 0: one per processor.", lower_bound=0
)


def main(argv: Sequence[str]) -> None:
    """Writes the cache and prints its number of images and the time taken."""
    # Shards are written whole, so a signal may end the process at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    from thanos_jax import config as schema  # not before --help: the schema is slow to import
    from thanos_jax.data import caching, sources

    config, folder = _CONFIG.value, pathlib.Path(str(_OUT.value)).expanduser()
    schema.check(config)
    if config.data.cache:
        raise ConfigError(
            f"config.data.cache: expected '' while a cache is written, got {config.data.cache!r}"
        )
    if sources.is_of_files(config.data):
        config.data.memory_limit_gib = 0.0  # read once, shard by shard
    started = time.perf_counter()
    done = caching.write(
        sources.as_stored(config.data),
        config.data,
        folder,
        threads=_THREADS.value or min(os.cpu_count() or 1, 16),
        shard_rows=_ROWS.value,
    )
    seconds = time.perf_counter() - started
    speed = f", {done.written / seconds:,.0f} images/s" if done.written else ""
    print(f"{done.images:,} images, {done.written:,} of them new, in {seconds:.1f} s{speed}")
    print(f"cache: {folder}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "out"])
    command.start(main)
