"""Parameters of a ResNet out of a file: torchvision's, or those of an encoder trained here.

Nothing is unpickled: files are .safetensors, read here, or .npz.
"""

from __future__ import annotations

import json
import math
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

from thanos_jax.errors import UserError

PyTree = Any

# Names of number types in safetensors; the bytes are little-endian.
_DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
_LARGEST_HEADER = 100_000_000  # bytes, as in the format's own library
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

# Our layers and parameters under torchvision's names; conv_0 is conv1, and norm_0 is bn1.
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


class WeightsError(UserError, ValueError):
    """A file of parameters that cannot be used; the message names the file and the tensor."""


def load(
    path: str | os.PathLike[str], encoder: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, PyTree]:
    """Reads an encoder's parameters and batch statistics; compiles nothing.

    Args:
        path: .safetensors or .npz, with the names of torchvision's ResNet or of `save_npz`.
        encoder: a `thanos_jax.models.ResNet`.
        image_shape: (height, width, channels) of its input.

    Returns:
        {"params": ..., "batch_stats": ...} as of `encoder.init`, of float32 NumPy arrays.

    Raises:
        WeightsError: the file is not there or damaged, of another kind, or of another network.
    """
    tensors = read(path)
    shapes = jax.eval_shape(
        lambda key: encoder.init(key, jnp.zeros((1, *image_shape)), train=False), jax.random.key(0)
    )
    like = {name: shapes.get(name, {}) for name in ("params", "batch_stats")}
    ours = any(name.startswith(("params/", "batch_stats/")) for name in tensors)
    try:
        return from_ours(tensors, like) if ours else from_torchvision(tensors, like)
    except WeightsError as error:
        raise WeightsError(f"config.model.weights: {path}: {error}") from None


def replace_encoders(tree: Mapping[str, PyTree], encoder: PyTree) -> dict[str, PyTree]:
    """Puts one encoder's parameters in the place of every encoder's.

    Args:
        tree: "params" or "batch_stats" of a `thanos_jax.models.Thanos`.
        encoder: the same of one encoder.

    Returns:
        The tree with new encoders, each with arrays of its own, so that they may be donated.
    """
    return {
        name: jax.tree.map(jnp.array, encoder) if name.startswith("encoders_") else part
        for name, part in tree.items()
    }


def from_torchvision(tensors: Mapping[str, np.ndarray], like: PyTree) -> PyTree:
    """Takes a ResNet's variables out of a state dictionary of torchvision's.

    The last layer (fc) and the counts of batches are not looked at.

    Args:
        tensors: name -> array, such as conv1.weight [out, in, height, width].
        like: {"params": ..., "batch_stats": ...}, of which shapes are read.

    Returns:
        Of the same structure, float32 NumPy arrays, kernels [height, width, in, out]. float16 and
        bfloat16 become float32 exactly, float64 is rounded.

    Raises:
        WeightsError: a tensor is missing, not one of the network's, of another shape, not of
            floating numbers, or not finite; names the first.
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
    # The stem first: what is wrong with it is what the config can mend.
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
    """The name in torchvision's ResNet of a variable of ours.

    Args:
        path: its keys, such as ("stage_0_block_1", "norm_0", "mean").

    Returns:
        Such as "layer1.1.bn1.running_mean".
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


def from_ours(tensors: Mapping[str, np.ndarray], like: PyTree) -> PyTree:
    """Takes variables out of what `save_npz` wrote, bit for bit.

    Args:
        tensors: name -> array, such as params/stem/kernel.
        like: {"params": ..., "batch_stats": ...}, of which shapes and dtypes are read.

    Returns:
        Of the same structure, NumPy arrays.

    Raises:
        WeightsError: an array is missing, not one of the network's, or of another shape or dtype;
            names the first.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {_our_name(path): leaf for path, leaf in leaves}
    _require_names(list(wanted), list(tensors))
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
    """Writes an encoder's parameters and batch statistics, for `load`; whole or not at all.

    Args:
        path: ends in .npz; a file that is there is replaced.
        params: nested dictionaries of arrays, such as state.params["encoders_0"].
        batch_stats: the same of model_state["batch_stats"]; {} if there are none.

    Raises:
        WeightsError: the path ends otherwise, an array is of a dtype that NumPy lacks, or the
            folder cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise WeightsError(f"path: expected a name that ends in .npz, got {path}")
    leaves = jax.tree_util.tree_leaves_with_path({"params": params, "batch_stats": batch_stats})
    arrays: dict[str, Any] = {_our_name(keys): np.asarray(leaf) for keys, leaf in leaves}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":  # bfloat16 would be read back as bytes
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
    """Reads the arrays of a .safetensors or .npz file by name.

    Raises:
        WeightsError: no such file, one of another kind (with how to convert PyTorch's), or one
            that is damaged.
    """
    path = pathlib.Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise WeightsError(
            f"config.model.weights: {path} is a pickle, which can run code when it is read; "
            "expected .safetensors or .npz. Where torch is installed, convert it once:\n"
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
    """Reads the arrays of a .npz file; objects, which would be pickled, are refused.

    Raises:
        WeightsError: not such a file, damaged, or with objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, TypeError, AttributeError, EOFError, KeyError, NotImplementedError,
            RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise WeightsError(f"expected a .npz file of arrays of numbers: {error}") from error


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .safetensors file.

    8 bytes, the length of the header; the header, JSON: name -> dtype, shape and place in the data;
    the data. Every byte of the data is one tensor's.

    Returns:
        Name -> array, not writable, in the order of the header.

    Raises:
        WeightsError: not such a file, cut short, or longer than its header says.

    Source: https://github.com/huggingface/safetensors, section Format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise WeightsError(
                f"not a whole .safetensors file: a header of {length} bytes in a file of {size}"
            )
        header = _parse_header(file.read(length))
        data = size - 8 - length
        end = 0
        for name, (_, begin, stop) in sorted(header.items(), key=lambda item: item[1][1:]):
            if begin != end or stop > data:
                raise WeightsError(
                    f"{name}: at bytes {begin} to {stop} of the data; expected them to begin at "
                    f"{end} and end within the {data} there are: the file is damaged"
                )
            end = stop
        if end != data:
            raise WeightsError(f"{data} bytes of data, of which the header knows {end}")
        found = {}
        for name, ((dtype, shape), begin, stop) in header.items():
            file.seek(8 + length + begin)
            flat = np.frombuffer(file.read(stop - begin), dtype)
            try:
                found[name] = flat.reshape(shape)
            except (ValueError, OverflowError) as error:
                raise WeightsError(f"{name}: no array has the shape {list(shape)}") from error
    return found


def _parse_header(text: bytes) -> dict[str, tuple[tuple[np.dtype, tuple[int, ...]], int, int]]:
    """Name -> ((dtype, shape), first byte of the data, byte after the last), checked."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name is there twice")
        return found

    def is_count(value: Any) -> bool:
        return type(value) is int and value >= 0

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=once)
        if not isinstance(header, dict):
            raise ValueError("expected an object")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the header is not that of a .safetensors file: {error}") from error
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise WeightsError(f"{name}: expected dtype, shape and data_offsets, got {entry!r}")
        label, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(label, str) or label not in _DTYPES:
            raise WeightsError(f"{name}: unknown dtype {label!r}; known are {', '.join(_DTYPES)}")
        if not isinstance(shape, list) or not all(map(is_count, shape)):
            raise WeightsError(f"{name}: expected a shape of integers >= 0, got {shape!r}")
        if not isinstance(place, list) or len(place) != 2 or not all(map(is_count, place)):
            raise WeightsError(f"{name}: expected two data_offsets >= 0, got {place!r}")
        needed = math.prod(shape) * _DTYPES[label].itemsize
        if place[1] - place[0] != needed:
            raise WeightsError(
                f"{name}: {label} {shape} takes {needed} bytes, but data_offsets are {place}"
            )
        found[name] = ((_DTYPES[label], tuple(shape)), place[0], place[1])
    return found


def _require_names(wanted: Sequence[str], given: Sequence[str]) -> None:
    other = "the file is not of the network that config.model.encoder names"
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
            f"unexpected {unexpected[0]}, one of {len(unexpected)} that the encoder has no place "
            f"for: {other}"
        )


def _mend(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    """What may be changed for a first convolution of another shape to fit; "" for the others."""
    if name != "conv1.weight" or len(got) != 4:
        return ""
    stem = {(7, 7): "imagenet", (3, 3): "small"}.get((got[2], got[3]))
    if got[2:] != expected[2:] and stem:
        return f"; it is that of config.model.resnet.stem={stem!r}"
    if got[0] != expected[0]:
        return f"; it is that of config.model.resnet.width={got[0]}"
    if got[1] != expected[1]:
        return (
            f"; it is for images of {got[1]} channels, and these have {expected[1]}, random bits "
            "included"
        )
    return ""


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    # A float8 means little without the scale that is kept elsewhere.
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize < 2:
        raise WeightsError(
            f"{name}: expected float16, bfloat16, float32 or float64, got {array.dtype}"
        )
    with np.errstate(over="ignore"):  # found next
        array = array.astype(np.float32)
    _require_finite(name, array)
    return array


def _require_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise WeightsError(f"{name}: has values that are not finite in float32")


def _our_name(path: Sequence[Any]) -> str:
    return "/".join(key.key for key in path)
