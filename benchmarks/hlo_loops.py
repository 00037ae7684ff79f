"""Finds in an HLO program how often a loop runs."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from hlo_text import CALLED, Instruction, Program, attribute, numbers


class Frame(NamedTuple):
    """A computation and where it was entered from: a loop's body or condition, or a call."""

    computation: str
    caller: Instruction | None = None
    parent: Frame | None = None
    loop: bool = False


# A value: (place, offset). The place is None for a constant; otherwise it is the index of an
# element that the nearest loop carries, to which the offset is added.
_Path = tuple[int, ...]
_Value = tuple[_Path | None, int]
_SAME_VALUE = ("bitcast", "convert", "copy", "copy-done", "copy-start", "opt-barrier", "reshape")


def trip_count(program: Program, frame: Frame, loop: Instruction) -> int | None:
    """Returns how often a loop's body runs, or None if the program does not show it."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    condition = Frame(attribute(loop, "condition") or "", loop, frame, loop=True)
    body = Frame(attribute(loop, "body") or "", loop, frame, loop=True)
    found = _find_comparison(program, condition)
    if found is None:
        return None
    comparison, where = found
    direction = attribute(comparison, "direction")
    sides = [_value(program, where, operand) for operand in comparison.operands]
    bounds = [_constant(program, where, operand) for operand in comparison.operands]
    if None in sides or (bounds[0] is None) == (bounds[1] is None):
        return None
    if bounds[0] is not None:  # bound < counter
        sides.reverse()
        bounds.reverse()
        direction = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}.get(str(direction), direction)
    place, offset = sides[0] or (None, 0)
    if place is None:
        return None
    root = program.computations[body.computation].root
    first = _constant(program, frame, loop.operands[0], place)
    after = _value(program, body, root, place)
    if first is None or after is None or after[0] != place:
        return None
    return _count(first + offset, after[1], str(direction), bounds[1] or 0)


def _count(first: int, step: int, direction: str, bound: int) -> int | None:
    """Returns how many of first, first + step, ... come before the comparison fails."""
    if direction in ("GT", "GE"):
        opposite = {"GT": "LT", "GE": "LE"}[direction]
        return _count(-first, -step, opposite, -bound)
    distance = bound - first + (direction == "LE")
    if direction == "NE":
        ends = step != 0 and distance % step == 0 and distance // step >= 0
        return distance // step if ends else None
    if direction not in ("LT", "LE"):
        return None
    if distance <= 0:
        return 0
    return math.ceil(distance / step) if step > 0 else None


def _find_comparison(program: Program, frame: Frame) -> tuple[Instruction, Frame] | None:
    """Returns the comparison at the root of a loop's condition, in a fusion or not."""
    computation = program.computations[frame.computation]
    instruction = computation.instructions[computation.root]
    while instruction.opcode in _SAME_VALUE:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode == "compare":
        return instruction, frame
    called = CALLED.findall(instruction.attributes)
    if instruction.opcode in ("fusion", "call") and called:
        return _find_comparison(program, Frame(called[0], instruction, frame))
    return None


def _value(program: Program, frame: Frame, name: str, path: _Path = ()) -> _Value | None:
    """Traces element `path` of an instruction back to a constant or to a carried element."""
    computation = program.computations[frame.computation]
    instruction = computation.instructions[name]
    opcode, operands = instruction.opcode, instruction.operands
    if opcode == "constant" and re.fullmatch(r"-?\d+", instruction.argument):
        return None, int(instruction.argument)
    if opcode in _SAME_VALUE:
        return _value(program, frame, operands[0], path)
    if opcode == "get-tuple-element":
        return _value(program, frame, operands[0], (*numbers(instruction, "index"), *path))
    if opcode == "tuple" and path:
        return _value(program, frame, operands[path[0]], path[1:])
    if opcode in ("add", "subtract"):
        return _add(opcode, *(_value(program, frame, operand) for operand in operands))
    if opcode == "parameter" and frame.loop:
        return path, 0
    if opcode == "parameter" and frame.parent is not None and frame.caller is not None:
        operand = frame.caller.operands[int(instruction.argument)]
        return _value(program, frame.parent, operand, path)
    if opcode in ("fusion", "call"):
        (called,) = CALLED.findall(instruction.attributes)
        inner = Frame(called, instruction, frame)
        return _value(program, inner, program.computations[called].root, path)
    return None


def _add(opcode: str, left: _Value | None, right: _Value | None) -> _Value | None:
    if left is None or right is None:
        return None
    if right[0] is None:
        return left[0], left[1] + (right[1] if opcode == "add" else -right[1])
    if left[0] is None and opcode == "add":
        return right[0], right[1] + left[1]
    return None


def _constant(program: Program, frame: Frame, name: str, path: _Path = ()) -> int | None:
    """Returns the value of a constant element, also if loops carry it unchanged."""
    value = _value(program, frame, name, path)
    if value is None:
        return None
    place, offset = value
    if place is None:
        return offset
    while not frame.loop:  # out of fusions
        if frame.parent is None:
            return None
        frame = frame.parent
    if frame.caller is None or frame.parent is None:
        return None
    body = Frame(attribute(frame.caller, "body") or "", frame.caller, frame.parent, loop=True)
    root = program.computations[body.computation].root
    if _value(program, body, root, place) != (place, 0):
        return None
    before = _constant(program, frame.parent, frame.caller.operands[0], place)
    return None if before is None else before + offset
