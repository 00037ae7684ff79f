"""Exports a model for use without this package: weights, a program, and a model card.

    encoder.safetensors          the encoder; a ResNet's tensors have torchvision's names
    second_encoder.safetensors   the autoencoder's encoder, if there are two encoders
    encoder.stablehlo            uint8 images in, embeddings and probabilities out, by jax.export
    model.json                   names, shapes, preprocessing, config, versions
    README.md                    the model card

The weights can be read by any framework and version. The program needs a version of jax at least as
new as the one that wrote it.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np

from thanos_jax import workdir
from thanos_jax.errors import ConfigError, UserError
from thanos_jax.models import ResNet, pretrained
from thanos_jax.models.safetensors import write_safetensors
from thanos_jax.train import forward
from thanos_jax.trained import card
from thanos_jax.trained.model import Model

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM = "encoder.stablehlo"
WEIGHTS = ("encoder.safetensors", "second_encoder.safetensors")
_OUTPUTS = ("embedding", "probability")


class ExportError(UserError):
    """An exported program that cannot be used here; the message says what is needed."""


def export(model: Model, folder: pathlib.Path, results: dict[str, Any]) -> list[str]:
    """Writes a model to a folder; see the module.

    Args:
      model: from `thanos_jax.load`.
      folder: created if needed; an earlier export in it is replaced.
      results: results of the run, for the card; see `results_of`.

    Returns:
      The names of the files.

    Raises:
      ConfigError: the folder holds something else.
      WorkdirError: a file cannot be written.
    """
    exported = {
        "step": model.step,
        "embedding_dim": model.embedding_dim,
        "fingerprint": model.fingerprint,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
    }
    config = model.config.to_dict()
    for section, key in (("data", "data_dir"), ("data", "cache"), ("model", "weights")):
        config[section][key] = ""  # paths of this machine
    described = {**model.described, "config": config, "export": exported}
    files: dict[str, Callable[[pathlib.Path], Any]] = {}
    for number, name in enumerate(WEIGHTS[: len(model.module.encoders)]):
        tensors = _tensors(model, number)
        facts = {"format": "pt", "thanos_jax": model.fingerprint}
        files[name] = functools.partial(write_safetensors, tensors=tensors, metadata=facts)
    files[PROGRAM] = functools.partial(_write_bytes, content=_program(model))
    texts = {
        workdir.MODEL: json.dumps(described, indent=2) + "\n",
        card.NAME: card.card(model, described, results),
    }
    for name, text in texts.items():
        files[name] = functools.partial(workdir.write_atomically, text=text)
    if folder.is_dir() and any(path.name not in files for path in folder.iterdir()):
        raise ConfigError(f"out: expected a new folder, or an earlier export, got {folder}")
    with workdir.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in files.items():
            write(folder / name)
    return list(files)


def results_of(run: pathlib.Path, model: Model) -> dict[str, Any]:
    """Returns the content of a run's results.json if it is about this model, else {}."""
    path = run / "results.json"
    if not model.reported or not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def read(folder: str | os.PathLike[str]) -> Callable[[Any], dict[str, np.ndarray]]:
    """Reads the program of an export.

    Args:
      folder: written by `export`.

    Returns:
      A function of images, uint8 [n, h, w, c] with any n, as `Model.preprocess` returns them. It
      returns "embedding" float32 [n, d] and "probability" float32 [n, classes].

    Raises:
      ExportError: the folder has no program, or this version of jax cannot read it.
    """
    folder = pathlib.Path(folder).expanduser()
    try:
        written_by = json.loads((folder / workdir.MODEL).read_text(encoding="utf-8"))["export"][
            "jax"
        ]
        content = (folder / PROGRAM).read_bytes()
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(
            f"{folder}: expected an export, with {PROGRAM} and {workdir.MODEL}: {error}"
        ) from error
    try:
        program = jax.export.deserialize(bytearray(content))
        program.mlir_module()  # parses it now; otherwise an error would come late
    except Exception as error:  # several layers raise errors of many types
        raise ExportError(
            f"{folder / PROGRAM} was written by jax {written_by}, and jax {jax.__version__} cannot "
            f"read it; expected jax {written_by} or newer. Any version can read {WEIGHTS[0]}."
        ) from error
    call = jax.jit(program.call)
    return lambda images: {name: np.asarray(x) for name, x in call(images).items()}


def _tensors(model: Model, number: int) -> dict[str, np.ndarray]:
    """Returns the tensors of one encoder, with its embedding layer if there is one."""
    params = model.variables["params"]
    name, layer = f"encoders_{number}", params.get(f"embedding_{number}")
    variables = {"params": params[name]}
    averages = model.variables.get("batch_stats", {})
    if name in averages:
        variables["batch_stats"] = averages[name]
    is_resnet = isinstance(model.module.encoders[number], ResNet)
    return (pretrained.to_torchvision if is_resnet else pretrained.to_ours)(variables, layer)


def _program(model: Model) -> bytes:
    """Returns the model without its decoder as a jax.export program for any number of images."""
    # As NumPy arrays: the devices of this process must not become part of the program.
    variables = {
        kind: {name: jax.tree.map(np.asarray, x) for name, x in part.items() if name != "decoder"}
        for kind, part in model.variables.items()
    }
    apply = forward.make_forward(model.module.clone(decoder=None), model.inputs)

    def encode(images: jax.Array) -> dict[str, jax.Array]:
        outputs = apply(variables, images)
        return {name: outputs[name] for name in _OUTPUTS}

    height, width, channels = model.image_shape
    shape = jax.export.symbolic_shape(f"n, {height}, {width}, {channels}")
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    return bytes(jax.export.export(jax.jit(encode), platforms=PLATFORMS)(images).serialize())


def _write_bytes(path: pathlib.Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
