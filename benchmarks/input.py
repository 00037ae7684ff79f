"""Times reading, decoding and resizing photographs, compared with the needs of a training step.

python benchmarks/input.py [--sides=500,1280,2560] [--cores=1,2] [--json=FILE]

JPEG and PNG files and TFDS records are made of scikit-learn's two photographs, with heights --sides
and widths 1.5 times as large, and resized to --final pixels: by Pillow alone, by this project's
input (decoding at full or reduced size: data.decode), from a cache (thanos_jax.cache), and, where
they are installed, by torch's DataLoader with torchvision and by tf.data. The process and its
workers are bound to --cores cores, with as many threads or workers. All readers of a row run in
turns in one process. Images per second are medians of --repetitions, and so is the processor time
of readers that work in this process. The first batches of each turn are left out, and the last are
not waited for, because worker processes take seconds to start and to end.

"In the interpreter" is the cost of an image that does not depend on its size: opening, checks and
copies, measured with an 8 x 8 file, plus the copy of the final pixels. Only one thread at a time
can do this part. The number of useful threads is therefore at most the time of a whole image
divided by the time of this part.

The needs of a step are the FLOPs of ResNet50, by XLA's count of the lowered forward and backward
pass of two views, at --tflops per device. That speed is an assumption: state it with the number.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from input_readers import (
    BATCH,
    IN_WORKERS,
    READERS,
    Pictures,
    Read,
    files,
    missing,
    write_pictures,
)

from thanos_jax.models import ResNet

_SIDES = flags.DEFINE_list("sides", ["500", "1280", "2560"], "Heights of images in pixels.")
_FINAL = flags.DEFINE_integer("final", 224, "Side of the square that images are resized to.")
_HOW = flags.DEFINE_enum("how", "tiled", ["tiled", "enlarged"], "How photographs are made large.")
_CORES = flags.DEFINE_list("cores", ["1", "2"], "Numbers of cores, and of threads or workers.")
_ONLY = flags.DEFINE_list("readers", list(READERS), "The readers to time.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Approximate length of a turn.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Turns of each reader.", lower_bound=1)
_TFLOPS = flags.DEFINE_float("tflops", 400.0, "Assumed speed of a device, in 10^12 FLOP/s.")
_JSON = flags.DEFINE_string("json", None, "Where to write the numbers, if anywhere.")


class Speed(NamedTuple):
    """The speed of a reader.

    Attributes:
      rate: images per second.
      processor: seconds of processor time per image, of this process alone.
    """

    rate: float
    processor: float


def speed(read: Read, images: int, cores: int) -> Speed:
    """Returns the speed of a reader, without its start and end."""
    skip = cores + 2  # batches that may be almost ready when the first one arrives
    stream = read(images + 3 * skip * BATCH)
    for _ in range(skip):
        next(stream)
    started, used = time.perf_counter(), time.process_time()
    for _ in range(images // BATCH):
        next(stream)
    seconds = time.perf_counter() - started
    return Speed(images / seconds, (time.process_time() - used) / images)


def compare(pictures: Pictures, cores: int) -> dict[str, list[Speed]]:
    """Returns the speed of every reader that can run, in each of its turns."""
    chosen = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, chosen[:cores])  # new threads and processes inherit it
    try:
        readers = {
            name: READERS[name][0](pictures, cores) for name in _ONLY.value if not missing(name)
        }
        images = {}
        for name, read in readers.items():  # warms up, too
            first = speed(read, 2 * BATCH * cores, cores).rate
            images[name] = BATCH * cores * max(2, round(first * _SECONDS.value / BATCH / cores))
        found: dict[str, list[Speed]] = {name: [] for name in readers}
        for _ in range(_REPETITIONS.value):
            for name, read in readers.items():
                found[name].append(speed(read, images[name], cores))
    finally:
        os.sched_setaffinity(0, chosen)
    return found


def in_the_interpreter(root: pathlib.Path, final: int) -> float:
    """Returns the seconds that an image takes apart from decoding and resizing."""
    pictures = write_pictures(root, side=8, final=8, count=4, how="tiled")
    opening = speed(files(pictures, 1), 512, 1).processor
    from PIL import Image

    image = Image.new("RGB", (final, final))
    started = time.process_time()
    for _ in range(200):
        np.asarray(image)
    return opening + (time.process_time() - started) / 200


def resnet50_flops(side: int) -> float:
    """Returns the FLOPs of forward and backward pass of ResNet50 on one image of two views."""
    module = ResNet((3, 4, 6, 3), bottleneck=True, stem="imagenet")
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)

    def loss(params: Any, rest: Any, x: jax.Array) -> jax.Array:
        outputs, _ = module.apply({"params": params, **rest}, x, train=True, mutable=list(rest))
        return outputs.sum()

    params = variables["params"]
    rest = {name: part for name, part in variables.items() if name != "params"}
    cost = jax.jit(jax.grad(loss)).lower(params, rest, images).cost_analysis()
    assert cost is not None
    return float(cost["flops"])


def _show(numbers: dict[str, Any], side: int, cores: Sequence[int]) -> None:
    keys = [f"{side}, {count}" for count in cores]
    for name in numbers["rates"][keys[0]]:
        rates = "".join(f"{numbers['rates'][key][name]:10,.0f}" for key in keys)
        used = numbers["processor"][keys[0]].get(name)
        share = f"{used * 1e3:10.2f} ms of processor time" if used else ""
        print(f"  {name:20s}{rates}{share}", flush=True)


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    numbers: dict[str, Any] = {"load": os.getloadavg()[0], "rates": {}, "processor": {}}
    sides, cores = ([int(n) for n in chosen.value] for chosen in (_SIDES, _CORES))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for side in sides:
            (root / str(side)).mkdir()
            pictures = write_pictures(
                root / str(side), side=side, final=_FINAL.value, count=32, how=_HOW.value
            )
            size = np.mean([path.stat().st_size for path in pictures.folder.glob("train/*/*.jpg")])
            print(f"{side} x {side * 3 // 2}, JPEG files of {size / 1000:.0f} kB", flush=True)
            for count in cores:
                key, found = f"{side}, {count}", compare(pictures, count)
                numbers["rates"][key] = {
                    name: float(np.median([one.rate for one in turns]))
                    for name, turns in found.items()
                }
                numbers["processor"][key] = {
                    name: float(np.median([one.processor for one in turns]))
                    for name, turns in found.items()
                    if name not in IN_WORKERS
                }
            _show(numbers, side, cores)
        (root / "small").mkdir()
        numbers["interpreter"] = in_the_interpreter(root / "small", _FINAL.value)
    numbers["not_run"] = {name: package for name in READERS if (package := missing(name))}
    for name, package in numbers["not_run"].items():
        print(f"  {name}: not run: {package} is not installed")
    print(f"in the interpreter: {numbers['interpreter'] * 1e3:.2f} ms an image")
    numbers["resnet50_flops"] = resnet50_flops(_FINAL.value)
    needed = numbers["needed"] = _TFLOPS.value * 1e12 / numbers["resnet50_flops"]
    print(
        f"a step of ResNet50: {numbers['resnet50_flops'] / 1e9:.1f} GFLOP an image of two views;"
        f" at {_TFLOPS.value:g} TFLOP/s a device takes {needed:,.0f} images/s"
    )
    for side in sides:
        used = numbers["processor"][f"{side}, {cores[0]}"]
        each = ", ".join(f"{name} {needed * one:,.1f}" for name, one in used.items())
        print(f"  cores for that, of images of {side} pixels: {each}")
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(numbers, indent=2), encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
