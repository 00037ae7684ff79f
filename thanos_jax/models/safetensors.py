"""Reads and writes safetensors files, without the library safetensors.

A file has three parts: 8 bytes with the length of the header; the header, JSON that maps each name
to dtype, shape and place in the data; the data. Every byte of the data belongs to one tensor.

Source: https://github.com/huggingface/safetensors, section Format.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from thanos_jax.errors import UserError

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


class WeightsError(UserError, ValueError):
    """A file of parameters cannot be used; the message names the file and the tensor."""


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .safetensors file.

    Returns:
        name -> array, not writable, in the order of the header.

    Raises:
        WeightsError: the file is not a .safetensors file, or its length differs from what the
            header says.

    Source: https://github.com/huggingface/safetensors, section Format.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise WeightsError(
                f"not a complete .safetensors file: a header of {length} bytes in a file of {size}"
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
            raise WeightsError(f"{data} bytes of data, but the header describes {end}")
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
    """Returns name -> ((dtype, shape), first byte in the data, byte after the last), checked."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name occurs twice")
        return found

    def is_count(value: Any) -> bool:
        return type(value) is int and value >= 0

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=once)
        if not isinstance(header, dict):
            raise ValueError("expected an object")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"not the header of a .safetensors file: {error}") from error
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


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors to a .safetensors file, atomically.

    Args:
        path: path of the file; an existing file is replaced.
        tensors: name -> array of any dtype that the format supports.
        metadata: key -> text, stored in the header.

    Raises:
        WeightsError: the format does not support a dtype; the message names the tensor.
    """
    path = pathlib.Path(path)
    codes = {dtype: code for code, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, array in tensors.items():
        if array.dtype.newbyteorder("<") not in codes:
            raise WeightsError(
                f"{name}: expected a dtype of {', '.join(map(str, codes))}, got {array.dtype}"
            )
        code = codes[array.dtype.newbyteorder("<")]
        header[name] = {
            "dtype": code, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]
        }  # fmt: skip
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the data to 8 bytes
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes())
    os.replace(temporary, path)
