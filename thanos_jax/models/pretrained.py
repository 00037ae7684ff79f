"""Reads and writes the parameters of an encoder, with our names or torchvision's (ResNet).

Files are .safetensors or .npz; nothing is unpickled.
"""

from __future__ import annotations

import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from thanos_jax.models.resnet import ResNet
from thanos_jax.models.safetensors import WeightsError, read_safetensors

PyTree = Any

_EMBEDDING = "embedding/"  # prefix of a layer after the encoder, in our names
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

# Our names of layers and parameters -> torchvision's; conv_0 is conv1, and norm_0 is bn1.
_LAYERS = {
    "stem": "conv1",
    "stem_norm": "bn1",
    "shortcut": "downsample.0",
    "shortcut_norm": "downsample.1",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def load(
    path: str | os.PathLike[str], encoder: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, PyTree]:
    """Reads an encoder's parameters and batch statistics; compiles nothing.

    Args:
        path: a .safetensors or .npz file with the names of `to_ours` or `save_npz`; for a ResNet,
            torchvision's names are accepted too. A layer after the encoder, "embedding/..." or
            torchvision's fc, is ignored.
        encoder: any of `thanos_jax.models.ENCODERS`.
        image_shape: (height, width, channels) of its input.

    Returns:
        {"params": ..., "batch_stats": ...} as returned by `encoder.init`, float32 NumPy arrays.

    Raises:
        WeightsError: the file is missing or damaged, has another format, or belongs to another
            network.
    """
    tensors = read(path)
    shapes = jax.eval_shape(
        lambda key: encoder.init(key, jnp.zeros((1, *image_shape)), train=False), jax.random.key(0)
    )
    like = {name: shapes.get(name, {}) for name in ("params", "batch_stats")}
    ours = any(name.startswith(("params/", "batch_stats/")) for name in tensors)
    try:
        if not ours and not isinstance(encoder, ResNet):
            raise WeightsError(
                "expected names such as params/..., from an encoder trained here, for "
                f"{type(encoder).__name__}, got {next(iter(tensors), 'no tensor')!r}"
            )
        return from_ours(tensors, like) if ours else from_torchvision(tensors, like)
    except WeightsError as error:
        raise WeightsError(f"config.model.weights: {path}: {error}") from None


def replace_encoders(tree: Mapping[str, PyTree], encoder: PyTree) -> dict[str, PyTree]:
    """Replaces the parameters of every encoder of a model by the parameters of one encoder.

    Args:
        tree: "params" or "batch_stats" of a `thanos_jax.models.Thanos`.
        encoder: "params" or "batch_stats" of one encoder.

    Returns:
        The tree with new encoders. Each has its own copy of the arrays, which may be donated.
    """
    return {
        name: jax.tree.map(jnp.array, encoder) if name.startswith("encoders_") else part
        for name, part in tree.items()
    }


def from_torchvision(tensors: Mapping[str, np.ndarray], like: PyTree) -> PyTree:
    """Converts a state dictionary of torchvision's ResNet to our variables.

    The last layer (fc) and the numbers of batches are ignored.

    Args:
        tensors: name -> array, such as conv1.weight [out, in, height, width].
        like: {"params": ..., "batch_stats": ...} with the expected shapes.

    Returns:
        A tree with the structure of `like`, float32 NumPy arrays, kernels [height, width, in, out].
        float16 and bfloat16 are converted exactly, float64 is rounded.

    Raises:
        WeightsError: a tensor is missing or unexpected, has another shape, is not floating point,
            or is not finite; the message names the first such tensor.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {torchvision_name([key.key for key in path[1:]]): leaf for path, leaf in leaves}
    given = {
        name: array
        for name, array in tensors.items()
        if not (name.startswith("fc.") or name.endswith("num_batches_tracked"))
    }
    _require_names(list(wanted), list(given))
    found = {}
    # The stem first, because its errors can be corrected in the config.
    for name in sorted(wanted, key=lambda name: (name != "conv1.weight", name)):
        shape = wanted[name].shape
        turned = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape
        array = given[name]
        if array.shape != turned:
            raise WeightsError(
                f"{name}: expected shape {list(turned)}, got {list(array.shape)}"
                + _mend(name, turned, array.shape)
            )
        array = _as_float32(name, array)
        found[name] = np.ascontiguousarray(
            array.transpose(2, 3, 1, 0) if len(shape) == 4 else array
        )
    return jax.tree_util.tree_unflatten(structure, [found[name] for name in wanted])


def torchvision_name(path: Sequence[str]) -> str:
    """Returns torchvision's name of one of our variables.

    Args:
        path: the keys of our variable, such as ("stage_0_block_1", "norm_0", "mean").

    Returns:
        The name, such as "layer1.1.bn1.running_mean".
    """
    *block, layer, leaf = path
    prefix = ""
    if block:
        _, stage, _, index = block[0].split("_")
        prefix = f"layer{int(stage) + 1}.{index}."
    if layer in _LAYERS:
        theirs = _LAYERS[layer]
    else:
        kind, number = layer.split("_")
        theirs = f"{'conv' if kind == 'conv' else 'bn'}{int(number) + 1}"
    return f"{prefix}{theirs}.{_LEAVES[leaf]}"


def to_torchvision(
    variables: PyTree, embedding: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Returns a ResNet's variables as a state dictionary of torchvision, with the same bits.

    Args:
        variables: {"params": ..., "batch_stats": ...} of a `thanos_jax.models.ResNet`.
        embedding: "kernel" and "bias" of a linear layer after it, which becomes fc; None: no fc.

    Returns:
        name -> array, kernels [out, in, height, width]; `from_torchvision` reads it.
    """
    found: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        keys, array = [key.key for key in path[1:]], np.asarray(leaf)
        name = torchvision_name(keys)
        turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        found[name] = np.ascontiguousarray(turned)
        if name.endswith("running_mean"):
            counted = name.replace("running_mean", "num_batches_tracked")
            found[counted] = np.zeros((), np.int64)
    if embedding is not None:
        found["fc.weight"] = np.ascontiguousarray(np.asarray(embedding["kernel"]).T)
        found["fc.bias"] = np.asarray(embedding["bias"])
    return found


def to_ours(variables: PyTree, embedding: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Returns the variables of any encoder by name, such as params/layer_0/kernel.

    Args:
        variables: {"params": ..., "batch_stats": ...}; the latter may be missing.
        embedding: "kernel" and "bias" of a linear layer after it; None: there is none.

    Returns:
        name -> array, with the same bits; with `embedding`, also embedding/kernel and
        embedding/bias. `from_ours` reads it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    layer = {} if embedding is None else embedding
    return {_our_name(path): np.asarray(leaf) for path, leaf in leaves} | {
        _EMBEDDING + name: np.asarray(array) for name, array in layer.items()
    }


def from_ours(tensors: Mapping[str, np.ndarray], like: PyTree) -> PyTree:
    """Converts named arrays, as `to_ours` returns and `save_npz` writes them, to variables.

    Args:
        tensors: name -> array, such as params/stem/kernel.
        like: {"params": ..., "batch_stats": ...} with the expected shapes and dtypes.

    Returns:
        A tree with the structure of `like`, NumPy arrays with the same bits.

    Raises:
        WeightsError: an array is missing or unexpected, or has another shape or dtype; the message
            names the first such array.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {_our_name(path): leaf for path, leaf in leaves}
    _require_names(list(wanted), [name for name in tensors if not name.startswith(_EMBEDDING)])
    for name, leaf in wanted.items():
        array = tensors[name]
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            raise WeightsError(
                f"{name}: expected {leaf.dtype} {list(leaf.shape)}, got {array.dtype} "
                f"{list(array.shape)}"
            )
        _require_finite(name, array)
    return jax.tree_util.tree_unflatten(structure, [tensors[name] for name in wanted])


def save_npz(path: str | os.PathLike[str], params: PyTree, batch_stats: PyTree) -> None:
    """Writes an encoder's parameters and batch statistics atomically, for `load`.

    Args:
        path: path that ends in .npz; an existing file is replaced.
        params: nested dictionaries of arrays, such as state.params["encoders_0"].
        batch_stats: batch statistics in the same form, such as
            model_state["batch_stats"]["encoders_0"]; {} if there are none.

    Raises:
        WeightsError: the path does not end in .npz, an array has a dtype that NumPy lacks, or the
            folder cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise WeightsError(f"path: expected a name that ends in .npz, got {path}")
    arrays: dict[str, Any] = to_ours({"params": params, "batch_stats": batch_stats})
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":  # bfloat16 would be read as raw bytes
            raise WeightsError(
                f"{name}: expected an array of NumPy's own numbers, got {array.dtype}"
            )
    temporary = path.with_name(f"{path.stem}.tmp.npz")
    try:
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from error


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a .safetensors or .npz file: name -> array.

    Raises:
        WeightsError: the file is missing, damaged or of another format; for a PyTorch file, the
            message says how to convert it.
    """
    path = pathlib.Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise WeightsError(
            f"config.model.weights: {path} is a pickle, which can run code when it is read; "
            "expected .safetensors or .npz. Convert it once, where torch is installed:\n"
            "  import safetensors.torch, torch\n"
            f"  safetensors.torch.save_file(torch.load({str(path)!r}, weights_only=True), "
            f"{str(path.with_suffix('.safetensors'))!r})"
        )
    readers = {".safetensors": read_safetensors, ".npz": read_npz}
    if suffix not in readers:
        raise WeightsError(
            f"config.model.weights: expected a file that ends in .safetensors or .npz, got {path}"
        )
    if not path.is_file():
        raise WeightsError(f"config.model.weights: there is no file {path}")
    try:
        return readers[suffix](path)
    except WeightsError as error:
        raise WeightsError(f"config.model.weights: {path}: {error}") from None
    except OSError as error:
        raise WeightsError(
            f"config.model.weights: {path}: cannot be read: {error.strerror or error}"
        ) from error


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz file: name -> array. Pickled objects are refused.

    Raises:
        WeightsError: the file is not a .npz file, is damaged, or has pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, TypeError, AttributeError, EOFError, KeyError, NotImplementedError,
            RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise WeightsError(f"expected a .npz file of arrays of numbers: {error}") from error


def _require_names(wanted: Sequence[str], given: Sequence[str]) -> None:
    other = "the file does not belong to the network that config.model.encoder names"
    missing = sorted(set(wanted) - set(given), key=lambda name: (name != "conv1.weight", name))
    if missing:
        first = f", the first {given[0]!r}" if given else ""
        raise WeightsError(
            f"{missing[0]} is missing, one of {len(missing)}; there are {len(given)} tensors"
            f"{first}: {other}"
        )
    unexpected = sorted(set(given) - set(wanted))
    if unexpected:
        raise WeightsError(
            f"unexpected {unexpected[0]}, one of {len(unexpected)} that the encoder does "
            f"not have: {other}"
        )


def _mend(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    """Returns a hint how the config can fit the shape of the first convolution; "" for others."""
    if name != "conv1.weight" or len(got) != 4:
        return ""
    stem = {(7, 7): "imagenet", (3, 3): "small"}.get((got[2], got[3]))
    if got[2:] != expected[2:] and stem:
        return f"; it fits config.model.resnet.stem={stem!r}"
    if got[0] != expected[0]:
        return f"; it fits config.model.resnet.width={got[0]}"
    if got[1] != expected[1]:
        return (
            f"; it is for images of {got[1]} channels, but these have {expected[1]}, including "
            "random bits"
        )
    return ""


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    # float8 values need a scale that is stored elsewhere.
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize < 2:
        raise WeightsError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {array.dtype}"
        )
    with np.errstate(over="ignore"):  # reported below
        array = array.astype(np.float32)
    _require_finite(name, array)
    return array


def _require_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise WeightsError(f"{name}: has values that are not finite in float32")


def _our_name(path: Sequence[Any]) -> str:
    return "/".join(key.key for key in path)
