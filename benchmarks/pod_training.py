"""Compiles a whole training step and the evaluation's forward pass for a TPU pod on any machine.

pip install 'thanos_jax[pod]'
python benchmarks/pod_training.py [--topology=v5e:16x16,v5p:4x4x8] [--encoder=resnet50,vit]
    [--program=step,forward] [--batch=32768] [--micro_batch=0] [--method=thanos] [--side=224]
    [--classes=1000] [--implementation=auto] [--json=FILE]

Nothing runs. `pod.py` describes how programs are compiled and counted. It compiles the loss alone;
this file compiles a whole step: augmentation, encoder and decoder in bfloat16, losses, gradients
summed over the devices, AdamW. "vit" is ViT-B/16 (width 768, depth 12, 12 heads). --batch is the
global batch, in images of two views each; --micro_batch encodes it in chunks
(config.train.micro_batch_size).

The numbers are per device:

  arguments, temporaries, peak   as in `pod.py`.
  FLOPs         of the products and convolutions of the optimized program.
  x model       FLOPs over model FLOPs. Model FLOPs are the forward pass of the device's views,
                by the definition of its layers (thanos_jax/train/layer_flops.py), three times for a
                step and once for "forward". FLOPs include the loss, model FLOPs do not. The first
                layer needs no gradient of the images, so the quotient may be below 1.
  ms of the chip  FLOPs over the chip's peak in bfloat16 (v5e 197, v5p 459 TFLOP/s), in
                milliseconds: no step is faster.
  sent, overlap as in `pod.py`.
"""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tpu_compiler
from absl import flags
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import command, sharding
from thanos_jax import config as schema
from thanos_jax.data.dataset import Dataset
from thanos_jax.data.splits import ArraySplit
from thanos_jax.errors import UserError
from thanos_jax.train.build import Training, build
from thanos_jax.train.layer_flops import forward_flops, model_flops
from thanos_jax.train.two_views import two_views
from thanos_jax.train.update import make_step

ENCODERS = ("resnet50", "vit")
PROGRAMS = ("step", "forward")
# Peak FLOP/s in bfloat16, by jax's name of the device.
PEAK = {"TPU v5 lite": 197e12, "TPU v5": 459e12}

_TOPOLOGY = flags.DEFINE_list(
    "topology", "v5e:16x16,v5p:4x4x8", "TPU generation and chips along each side."
)
_ENCODER = flags.DEFINE_list("encoder", "resnet50,vit", f"Some of {', '.join(ENCODERS)}.")
_PROGRAM = flags.DEFINE_list("program", "step,forward", f"Some of {', '.join(PROGRAMS)}.")
_BATCH = flags.DEFINE_list("batch", "32768", "Images in the global batch.")
_MICRO_BATCH = flags.DEFINE_integer("micro_batch", 0, "Images encoded at once; 0: all.", 0)
_METHOD = flags.DEFINE_string("method", "thanos", "As in a config.")
_SIDE = flags.DEFINE_integer("side", 224, "Side of the images in pixels.", 1)
_CLASSES = flags.DEFINE_integer("classes", 1000, "Classes of the contrastive loss.", 2)
_IMPLEMENTATION = flags.DEFINE_string("implementation", "auto", "config.loss.implementation.")
_JSON = flags.DEFINE_string("json", None, "File for the numbers.")


class Case(NamedTuple):
    """A program to compile."""

    topology: str
    encoder: str
    program: str
    batch: int


def config_of(case: Case) -> ml_collections.ConfigDict:
    """Returns the config of the training to compile, after a check."""
    config = schema.default()
    config.method = _METHOD.value
    config.data.image_size = _SIDE.value
    config.model.encoder = case.encoder
    config.model.arrangement = "shared"
    config.model.dtype = "bfloat16"
    config.model.resnet.stem = "imagenet"
    vit = {"patch": 16, "width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
    config.model.vit.update(vit)
    config.train.batch_size = case.batch
    config.train.micro_batch_size = _MICRO_BATCH.value
    config.loss.implementation = _IMPLEMENTATION.value
    schema.check(config)
    return config


def dataset_of(side: int, classes: int) -> Dataset:
    """Returns a data set of one black image per class: only shapes matter for compilation."""
    labels = np.arange(classes, dtype=np.int32)
    images = np.broadcast_to(np.zeros((side, side, 3), np.uint8), (classes, side, side, 3))
    split = ArraySplit(images, labels, labels)
    names = tuple(map(str, labels))
    return Dataset(
        name="black",
        splits=dict.fromkeys(("train", "validation", "test"), split),
        coarse_names=names,
        fine_names=names,
        image_shape=(side, side, 3),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


def lower(case: Case, training: Training, devices: list[Any]) -> jax.stages.Lowered:
    """Lowers the program as a run would.

    Args:
      case: the program.
      training: the training, built on this machine's own devices.
      devices: the devices to compile for.
    """
    mesh = Mesh(tpu_compiler.in_order("ring", devices), ("data",), axis_types=(AxisType.Auto,))
    everywhere, split = NamedSharding(mesh, P()), sharding.over_batch(mesh)

    def placed(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree
        )

    state = placed(training.state)
    image = jax.ShapeDtypeStruct(
        (case.batch, *training.dataset.image_shape), "uint8", sharding=split
    )
    label = jax.ShapeDtypeStruct((case.batch,), jnp.int32, sharding=split)
    # Choices by backend are made for the backend that the program is compiled for.
    with mock.patch.object(jax, "default_backend", return_value="tpu"):
        if case.program == "step":
            training = training._replace(mesh=mesh)
            step: Any = make_step(training, two_views(training))
            traced = step.trace(state, {"image": image, "coarse": label}, np.uint32(0))
        else:
            forward: Any = training.forward
            traced = forward.trace({"params": state.params, **state.model_state}, image)
    return traced.lower(lowering_platforms=("tpu",))


def measure(case: Case, devices: list[Any]) -> dict[str, Any]:
    """Compiles a case and returns its numbers; a refused case has none."""
    config = config_of(case)
    dataset = dataset_of(_SIDE.value, _CLASSES.value)
    training = build(config, dataset, sharding.make_mesh())
    row: dict[str, Any] = {
        **case._asdict(),
        "chips": len(devices),
        "device": devices[0].device_kind,
        "micro_batch": config.train.micro_batch_size,
        "method": config.method,
        **tpu_compiler.numbers(lower(case, training, devices)),
    }
    if row["refused"]:
        return row
    step = case.program == "step"
    flops = model_flops(training) if step else forward_flops(training) * case.batch
    peak = PEAK.get(row["device"])
    return row | {
        "model_flops": flops / len(devices),
        "peak_seconds": row["flops"] / peak if peak else None,
    }


def lines(row: dict[str, Any]) -> str:
    """Returns the text of a row, with its collectives."""
    head = (
        f"{row['topology']} ({row['chips']} x {row['device']}), {row['encoder']}, {row['program']}"
        f", batch {row['batch']}, micro-batch {row['micro_batch'] or 'none'}:"
    )
    if row["refused"]:
        return f"{head}\n    refused: {row['refused']}"
    least = "" if row["exact"] else ">="
    peak = row["peak_seconds"]
    chip = "" if peak is None else f", {peak * 1e3:.4g} ms of the chip"
    arguments, temporaries, most = (
        tpu_compiler.size(row[f"{name}_bytes"]) for name in ("argument", "temporary", "peak")
    )
    numbers = (
        f"    arguments {arguments}, temporaries {temporaries}, peak {most}\n"
        f"    FLOPs {least}{row['flops']:.4g}, x model {row['flops'] / row['model_flops']:.3f}"
        f"{chip}, compiled in {row['compile_seconds']:.0f} s"
    )
    return "\n".join([head, numbers, *tpu_compiler.traffic_lines(row)])


def cases_of_flags() -> list[Case]:
    """Checks the flags; returns a case for every combination of their values."""
    return [
        Case(*values)
        for values in itertools.product(
            tpu_compiler.some("topology", _TOPOLOGY.value),
            tpu_compiler.options("encoder", _ENCODER.value, ENCODERS),
            tpu_compiler.options("program", _PROGRAM.value, PROGRAMS),
            tpu_compiler.positive("batch", _BATCH.value),
        )
    ]


def main(argv: Sequence[str]) -> None:
    """Compiles every case and prints its numbers."""
    del argv
    tpu_compiler.keep_off_accelerators()
    cases = cases_of_flags()
    chips = {case.topology: tpu_compiler.chips_of(case.topology) for case in cases}
    for case in cases:
        if case.batch % len(chips[case.topology]):
            raise UserError(
                f"--batch: expected a multiple of the {len(chips[case.topology])} chips of "
                f"{case.topology}, got {case.batch}"
            )
    print(f"jax {jax.__version__}, libtpu {metadata.version('libtpu')}")
    rows = []
    for case in cases:
        rows.append(measure(case, chips[case.topology]))
        print(lines(rows[-1]), flush=True)
        if _JSON.value:  # after every row: the next may take minutes, or fail
            text = json.dumps(rows, indent=2)
            pathlib.Path(_JSON.value).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    command.start(main)
