"""Reads the text of an optimized HLO program as data."""

from __future__ import annotations

import math
import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """A line of a computation, as in `%name = shape opcode(%operand, ...), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    argument: str  # between the parentheses, for constants and parameters
    attributes: str  # after them


class Computation(NamedTuple):
    """A function of the program."""

    instructions: dict[str, Instruction]  # in the program's order
    root: str


class Program(NamedTuple):
    """A module; `scheduled` says whether its order is the order of execution."""

    computations: dict[str, Computation]
    entry: str
    devices: int
    scheduled: bool


_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")


def parse(text: str) -> Program:
    """Returns the program of `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: the text is not an HLO module.
    """
    header = text.partition("\n")[0]
    if not header.startswith("HloModule"):
        raise ValueError(
            f"text: expected an HLO module (`compiled.as_text()`), got {header[:60]!r}"
        )
    computations: dict[str, Computation] = {}
    entry = name = root = ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            instruction = _parse_instruction(match[2], _COMMENT.sub("", match[3]))
            instructions[instruction.name] = instruction
            root = instruction.name if match[1] else root
        elif line.startswith("}"):
            computations[name] = Computation(instructions, root)
            instructions = {}
        elif not line.startswith(" ") and (match := _HEADER.match(line)):
            name = match[2]
            entry = name if match[1] else entry
    if entry not in computations:
        raise ValueError("text: expected an HLO module with an entry computation, got none")
    counts = (re.search(rf"{field}=(\d+)", header) for field in ("num_partitions", "replica_count"))
    devices = math.prod(int(count[1]) for count in counts if count)
    return Program(computations, entry, devices, "is_scheduled=true" in header)


def _parse_instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    argument = rest[start + 1 : end - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", argument))
    return Instruction(name, shape, rest[:start], operands, argument, rest[end:])


def _closing(text: str, start: int) -> int:
    """Returns the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if not depth:
            return position + 1
    raise ValueError(f"text: expected balanced parentheses, got {text[:60]!r}")


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the arrays of a possibly nested shape, as (dtype, dimensions)."""
    return [
        (dtype, tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(shape)
    ]


def dimensions(shape: str) -> tuple[int, ...]:
    """Returns the dimensions of a shape of one array."""
    return arrays(shape)[0][1]


def num_bytes(dtype: str, dims: tuple[int, ...]) -> int:
    """Returns the bytes of an array without layout padding."""
    bits = re.search(r"\d+", dtype)
    size = {"pred": 8, "token": 0, "opaque": 0}.get(dtype, int(bits[0]) if bits else 0)
    return math.ceil(size * math.prod(dims) / 8)


def attribute(instruction: Instruction, name: str) -> str | None:
    """Returns the value of `name=...`: the text in its braces, or one word."""
    match = re.search(rf"[ ,]{name}=(?:\{{([^}}]*)\}}|%?([^ ,]+))", instruction.attributes)
    return None if match is None else match[1] if match[1] is not None else match[2]


def numbers(instruction: Instruction, name: str) -> tuple[int, ...]:
    """Returns the integers of `name={...}`, none if the instruction lacks it."""
    value = attribute(instruction, name)
    return tuple(int(number) for number in value.split(",")) if value else ()


def branches(conditional: Instruction) -> list[str]:
    """Returns the names of the computations that a conditional chooses from."""
    names = attribute(conditional, "branch_computations")
    if names is not None:
        return [name.strip().lstrip("%") for name in names.split(",")]
    both = (attribute(conditional, f"{which}_computation") for which in ("true", "false"))
    return [name for name in both if name]
