"""FLOPs of one product of an HLO program, and the bytes that one collective sends."""

from __future__ import annotations

import math
import re

import numpy as np
from hlo_text import Instruction, Program, attribute, dimensions, numbers


def dot_flops(dot: Instruction, left: str, right: str) -> float:
    """Counts two for each multiplication and addition."""
    del right  # the result has its free dimensions, the left operand the contracted ones
    contracted = [dimensions(left)[axis] for axis in numbers(dot, "lhs_contracting_dims")]
    return 2.0 * math.prod(dimensions(dot.shape)) * math.prod(contracted)


def convolution_flops(convolution: Instruction, image: str, kernel: str) -> float:
    """Counts as XLA does: kernel positions on padding or between dilated rows do not count.

    This matters because a batch of products can be written as a convolution over mostly padding.
    """
    labels = re.split("_|->", attribute(convolution, "dim_labels") or "")
    sizes = [
        dict(zip(names, dimensions(shape), strict=True))
        for names, shape in zip(labels, (image, kernel, convolution.shape), strict=True)
    ]
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", attribute(convolution, "window") or ""))

    def option(name: str, axis: int, default: str) -> list[int]:
        text = window[name].split("x")[axis] if name in window else default
        return [int(number) for number in text.split("_")]

    positions = 1
    for axis in range(len(labels[0]) - 2):
        width, taps, outputs = (size[str(axis)] for size in sizes)
        (stride,), (spread,) = option("stride", axis, "1"), option("rhs_dilate", axis, "1")
        (holes,), (before, _) = option("lhs_dilate", axis, "1"), option("pad", axis, "0_0")
        place = np.arange(outputs)[:, None] * stride + np.arange(taps) * spread - before
        inside = (place >= 0) & (place <= (width - 1) * holes) & (place % holes == 0)
        positions *= int(np.sum(inside))
    (groups,) = numbers(convolution, "batch_group_count") or (1,)
    features = sizes[1]["i"] * sizes[1]["o"]  # "i" is already divided by feature groups
    return 2.0 * features * (sizes[0]["b"] // groups) * positions


def library_flops(target: str, result: str, operands: list[str]) -> float | None:
    """Returns the FLOPs of a matrix product in a library, or None if the call is not one.

    Operands [.., M, K] and [.., K, N], in any order of dimensions, and the result [.., M, N]
    determine K.
    """
    if not re.search("matmul|gemm", target, re.IGNORECASE) or len(operands) < 2:
        return None
    out = dimensions(result)
    batch = math.prod(out[:-2])
    size = math.prod(dimensions(operands[0])) * math.prod(dimensions(operands[1]))
    inner = math.sqrt(size / (math.prod(out) * batch))
    return 2.0 * math.prod(out) * inner if inner.is_integer() else None


def bytes_sent(kind: str, size: float, group: int) -> float:
    """Returns the bytes that one device of a group sends, by ring algorithms, of `size` bytes."""
    if kind == "all-gather":
        return size * (group - 1)
    if kind == "all-reduce":
        return size * 2 * (group - 1) / group
    if kind in ("reduce-scatter", "all-to-all", "ragged-all-to-all"):
        return size * (group - 1) / group
    return size


def group_size(program: Program, collective: Instruction) -> int:
    """Reads the group size from a list of devices, {{0,1},{2,3}}, or [groups, size]<=[devices]."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", collective.attributes):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", collective.attributes):
        return len(match[1].split(","))
    return program.devices
