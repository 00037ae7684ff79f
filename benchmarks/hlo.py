"""Counts a compiled program's products, collectives and buffers from its optimized HLO.

    summary = hlo.summarize(compiled.as_text())
    summary.flops, summary.exact, summary.collectives["collective-permute"].bytes_sent

XLA's own `cost_analysis()` counts the body of a loop once, however often it runs. Here everything
is multiplied by the number of times it is executed on one device:

  loops         by their trip count: `known_trip_count` where the compiler wrote it down (CPU, GPU),
                otherwise from the loop itself (TPU): the condition compares one carried element
                with a bound, the body adds a constant to it, and the bound and the first value are
                constants, which are traced through fusions, copies, tuples and outer loops. If
                that fails, the loop counts once, and is named in `unknown_loops`.
  branches      a conditional counts as its branch with the most FLOPs.
  products      `dot` and `convolution` (to which TPU converts a dot), also inside fusions, called
                computations and loops; and calls of matrix product libraries. A product that the
                compiler wrote as multiply and sum (of vectors) is not counted. Calls of other
                foreign code are named in `opaque_calls`.
  collectives   bytes sent by a device, by ring algorithms: with g devices in a group and an
                operand of B bytes, all-gather (g - 1) B, all-reduce 2 (g - 1) / g B, reduce-scatter
                and all-to-all (g - 1) / g B, permute B.

With unknown loops or opaque calls the counts are lower bounds, and `exact` is False.
This module imports only NumPy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Buffer(NamedTuple):
    """An array, as the program writes it ("f32[8,128]"), and its bytes without layout padding."""

    shape: str
    bytes: int


class Traffic(NamedTuple):
    """The collectives of one kind; all numbers are per device and count every execution.

    Attributes:
      executions: number of executions.
      bytes_sent: bytes that a device sends.
      overlapped: executions with products between start and done, in loops or not, of at least one
        FLOP for each byte.
      bytes_overlapped: bytes sent by the overlapped executions.
      flops_beside: FLOPs while at least one overlapped execution is in progress. Divided by
        bytes_overlapped, it can be compared with the chip's FLOPs per byte of its links, to see
        whether the transfer is hidden completely.
    """

    executions: float = 0.0
    bytes_sent: float = 0.0
    overlapped: float = 0.0
    bytes_overlapped: float = 0.0
    flops_beside: float = 0.0


class Summary(NamedTuple):
    """What one device executes.

    Attributes:
      flops: of products; a multiplication and an addition count as two.
      exponentials: number of elements of which the exponential is taken.
      collectives: kind ("all-gather", "collective-permute", ...) -> its traffic.
      largest_buffer: the largest array that is not internal to a fusion.
      unknown_loops: names of loops that were counted once, because their trip count is unknown.
      opaque_calls: targets of foreign calls whose products, if any, were not counted.
      scheduled: whether the program's order is the order of execution; if not, overlap is unknown
        and counted as none.
    """

    flops: float
    exponentials: float
    collectives: Mapping[str, Traffic]
    largest_buffer: Buffer
    unknown_loops: tuple[str, ...]
    opaque_calls: tuple[str, ...]
    scheduled: bool

    @property
    def exact(self) -> bool:
        """Whether everything was counted; otherwise the counts are lower bounds."""
        return not (self.unknown_loops or self.opaque_calls)


def summarize(text: str) -> Summary:
    """Counts what one device executes.

    Args:
      text: `jax.stages.Compiled.as_text()`.

    Returns:
      The summary.

    Raises:
      ValueError: the text is not an HLO module.
    """
    program = _parse(text)
    cost = _cost(program, _Frame(program.entry))
    collectives: dict[str, Traffic] = {}
    for kind, traffic in cost.collectives:
        before = collectives.get(kind, Traffic())
        collectives[kind] = Traffic(*(x + y for x, y in zip(before, traffic, strict=True)))
    return Summary(
        flops=cost.flops,
        exponentials=cost.exponentials,
        collectives=collectives,
        largest_buffer=max(_buffers(program), key=lambda buffer: buffer.bytes),
        unknown_loops=tuple(sorted(set(cost.unknown_loops))),
        opaque_calls=tuple(sorted(set(cost.opaque_calls))),
        scheduled=program.scheduled,
    )


# --- The text as data ----------------------------------------------------------------------------


class _Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    argument: str  # between the parentheses, for constants and parameters
    attributes: str  # after them


class _Computation(NamedTuple):
    instructions: dict[str, _Instruction]  # in the program's order
    root: str


class _Program(NamedTuple):
    computations: dict[str, _Computation]
    entry: str
    devices: int
    scheduled: bool


_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")


def _parse(text: str) -> _Program:
    header = text.partition("\n")[0]
    if not header.startswith("HloModule"):
        raise ValueError(
            f"text: expected an HLO module (`compiled.as_text()`), got {header[:60]!r}"
        )
    computations: dict[str, _Computation] = {}
    entry = name = root = ""
    instructions: dict[str, _Instruction] = {}
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            instruction = _parse_instruction(match[2], _COMMENT.sub("", match[3]))
            instructions[instruction.name] = instruction
            root = instruction.name if match[1] else root
        elif line.startswith("}"):
            computations[name] = _Computation(instructions, root)
            instructions = {}
        elif not line.startswith(" ") and (match := _HEADER.match(line)):
            name = match[2]
            entry = name if match[1] else entry
    if entry not in computations:
        raise ValueError("text: expected an HLO module with an entry computation, got none")
    counts = (re.search(rf"{field}=(\d+)", header) for field in ("num_partitions", "replica_count"))
    devices = math.prod(int(count[1]) for count in counts if count)
    return _Program(computations, entry, devices, "is_scheduled=true" in header)


def _parse_instruction(name: str, text: str) -> _Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    argument = rest[start + 1 : end - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", argument))
    return _Instruction(name, shape, rest[:start], operands, argument, rest[end:])


def _closing(text: str, start: int) -> int:
    """Returns the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if not depth:
            return position + 1
    raise ValueError(f"text: expected balanced parentheses, got {text[:60]!r}")


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the arrays of a possibly nested shape, as (dtype, dimensions)."""
    return [
        (dtype, tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(shape)
    ]


def _dims(shape: str) -> tuple[int, ...]:
    return _arrays(shape)[0][1]


def _bytes(dtype: str, dims: tuple[int, ...]) -> int:
    bits = re.search(r"\d+", dtype)
    size = {"pred": 8, "token": 0, "opaque": 0}.get(dtype, int(bits[0]) if bits else 0)
    return math.ceil(size * math.prod(dims) / 8)


def _attribute(instruction: _Instruction, name: str) -> str | None:
    """Returns the value of `name=...`: the text in its braces, or one word."""
    match = re.search(rf"[ ,]{name}=(?:\{{([^}}]*)\}}|%?([^ ,]+))", instruction.attributes)
    return None if match is None else match[1] if match[1] is not None else match[2]


def _numbers(instruction: _Instruction, name: str) -> tuple[int, ...]:
    value = _attribute(instruction, name)
    return tuple(int(number) for number in value.split(",")) if value else ()


# --- What is executed ----------------------------------------------------------------------------


class _Cost(NamedTuple):
    flops: float = 0.0
    exponentials: float = 0.0
    collectives: tuple[tuple[str, Traffic], ...] = ()
    unknown_loops: tuple[str, ...] = ()
    opaque_calls: tuple[str, ...] = ()


class _Frame(NamedTuple):
    """A computation and where it was entered from: a loop's body or condition, or a call."""

    computation: str
    caller: _Instruction | None = None
    parent: _Frame | None = None
    loop: bool = False


_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Foreign calls without products: buffers, layouts, and the ends of collectives that TPU makes
# asynchronous by fusing them with the operations that run in parallel.
_START, _DONE = "AsyncCollectiveStart", "AsyncCollectiveDone"
_HARMLESS_CALLS = frozenset(
    {
        "AllocateBuffer",
        "AssumeGatherIndicesInBound",
        "ConcatBitcast",
        "PrepareAsyncCallDone",
        "PrepareAsyncCallStart",
        "Sharding",
        _START,
        _DONE,
    }
)


def _cost(program: _Program, frame: _Frame) -> _Cost:
    instructions = list(program.computations[frame.computation].instructions.values())
    costs = [_instruction_cost(program, frame, instruction) for instruction in instructions]
    beside: dict[str, set[int]] = {}
    for index, cost in enumerate(costs):
        done = _done(program, instructions[index:]) if cost.collectives else None
        if done is None or not program.scheduled:
            continue
        between = range(index + 1, index + done)
        flops = sum(costs[other].flops for other in between)
        if flops >= sum(traffic.bytes_sent for _, traffic in cost.collectives) > 0:
            costs[index] = cost._replace(
                collectives=tuple((kind, _overlapped(each)) for kind, each in cost.collectives)
            )
            for kind, _ in cost.collectives:
                beside.setdefault(kind, set()).update(between)
    return _sum([*costs, *(_beside(costs, kind, indices) for kind, indices in beside.items())])


def _beside(costs: list[_Cost], kind: str, indices: set[int]) -> _Cost:
    """Returns FLOPs of some instructions, less FLOPs already counted by collectives in loops."""
    flops = sum(costs[index].flops for index in indices)
    inner = sum(
        traffic.flops_beside
        for index in indices
        for name, traffic in costs[index].collectives
        if name == kind
    )
    return _Cost(collectives=((kind, Traffic(flops_beside=flops - inner)),))


def _overlapped(traffic: Traffic) -> Traffic:
    return traffic._replace(overlapped=traffic.executions, bytes_overlapped=traffic.bytes_sent)


def _done(program: _Program, following: list[_Instruction]) -> int | None:
    """Returns the index at which the operation that the first instruction starts is waited for.

    None if it is not asynchronous. The form is either `X-start` ... `X-update` ... `X-done`, or a
    fusion with a call of `_START`, fusions that pass the operation on while they compute, and a
    fusion with a call of `_DONE`.
    """
    start = following[0]
    if not start.opcode.endswith("-start") and not _calls(program, start, _START):
        return None
    waiting = {start.name}
    for index, instruction in enumerate(following):
        if waiting.intersection(instruction.operands):
            if instruction.opcode.endswith("-done") or _calls(program, instruction, _DONE):
                return index
            if (
                instruction.opcode.endswith("-update")
                or instruction.opcode == "get-tuple-element"
                or _continues(program, instruction)
            ):
                waiting.add(instruction.name)
    return None


def _calls(program: _Program, fusion: _Instruction, target: str) -> bool:
    """Whether an instruction is a fusion with a foreign call of `target`."""
    return fusion.opcode == "fusion" and any(
        instruction.opcode == "custom-call" and f'"{target}"' in instruction.attributes
        for name in _CALLED.findall(fusion.attributes)
        for instruction in program.computations[name].instructions.values()
    )


def _continues(program: _Program, fusion: _Instruction) -> bool:
    """Whether a fusion contains a collective only because it continues one that was started."""
    called = _CALLED.findall(fusion.attributes) if fusion.opcode == "fusion" else []
    return _calls(program, fusion, _DONE) or any(
        name.startswith("async_collective_fusion") for name in called
    )


def _sum(costs: list[_Cost]) -> _Cost:
    return _Cost(
        flops=sum(cost.flops for cost in costs),
        exponentials=sum(cost.exponentials for cost in costs),
        collectives=tuple(item for cost in costs for item in cost.collectives),
        unknown_loops=tuple(name for cost in costs for name in cost.unknown_loops),
        opaque_calls=tuple(name for cost in costs for name in cost.opaque_calls),
    )


def _times(cost: _Cost, times: float) -> _Cost:
    return cost._replace(
        flops=cost.flops * times,
        exponentials=cost.exponentials * times,
        collectives=tuple(
            (kind, Traffic(*(each * times for each in traffic)))
            for kind, traffic in cost.collectives
        ),
    )


def _instruction_cost(program: _Program, frame: _Frame, instruction: _Instruction) -> _Cost:
    def called(name: str, *, loop: bool = False) -> _Cost:
        return _cost(program, _Frame(name, instruction, frame, loop))

    def shapes() -> list[str]:
        table = program.computations[frame.computation].instructions
        return [table[operand].shape for operand in instruction.operands]

    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "while":
        trips = _trip_count(program, frame, instruction)
        body = called(_attribute(instruction, "body") or "", loop=True)
        if trips is None:
            return body._replace(unknown_loops=(*body.unknown_loops, instruction.name))
        return _times(body, trips)
    if opcode == "conditional":
        return max((called(name) for name in _branches(instruction)), key=lambda c: c.flops)
    if opcode in ("async", "call", "fusion"):
        cost = _sum([called(name) for name in _CALLED.findall(instruction.attributes)])
        return cost._replace(collectives=()) if _continues(program, instruction) else cost
    if opcode == "custom-call":
        target = (_attribute(instruction, "custom_call_target") or "").strip('"')
        flops = _library_flops(target, instruction.shape, shapes())
        unknown = flops is None and target not in _HARMLESS_CALLS
        return _Cost(flops=flops or 0.0, opaque_calls=(target,) if unknown else ())
    if opcode == "dot":
        return _Cost(flops=_dot_flops(instruction, *shapes()))
    if opcode == "convolution":
        return _Cost(flops=_convolution_flops(instruction, *shapes()))
    if opcode == "exponential":
        return _Cost(exponentials=float(math.prod(_dims(instruction.shape))))
    if opcode in _COLLECTIVES:
        size = sum(_bytes(*array) for shape in shapes() for array in _arrays(shape))
        sent = _bytes_sent(opcode, size, _group_size(program, instruction))
        return _Cost(collectives=((opcode, Traffic(1.0, sent)),))
    return _Cost()


def _branches(conditional: _Instruction) -> list[str]:
    names = _attribute(conditional, "branch_computations")
    if names is not None:
        return [name.strip().lstrip("%") for name in names.split(",")]
    both = (_attribute(conditional, f"{which}_computation") for which in ("true", "false"))
    return [name for name in both if name]


def _dot_flops(dot: _Instruction, left: str, right: str) -> float:
    del right  # the result has its free dimensions, the left operand the contracted ones
    contracted = [_dims(left)[axis] for axis in _numbers(dot, "lhs_contracting_dims")]
    return 2.0 * math.prod(_dims(dot.shape)) * math.prod(contracted)


def _convolution_flops(convolution: _Instruction, image: str, kernel: str) -> float:
    """Counts as XLA does: kernel positions on padding or between dilated rows do not count.

    This matters because a batch of products can be written as a convolution over mostly padding.
    """
    labels = re.split("_|->", _attribute(convolution, "dim_labels") or "")
    sizes = [
        dict(zip(names, _dims(shape), strict=True))
        for names, shape in zip(labels, (image, kernel, convolution.shape), strict=True)
    ]
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _attribute(convolution, "window") or ""))

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
    (groups,) = _numbers(convolution, "batch_group_count") or (1,)
    features = sizes[1]["i"] * sizes[1]["o"]  # "i" is already divided by feature groups
    return 2.0 * features * (sizes[0]["b"] // groups) * positions


def _library_flops(target: str, result: str, operands: list[str]) -> float | None:
    """Returns the FLOPs of a matrix product in a library, or None if the call is not one.

    Operands [.., M, K] and [.., K, N], in any order of dimensions, and the result [.., M, N]
    determine K.
    """
    if not re.search("matmul|gemm", target, re.IGNORECASE) or len(operands) < 2:
        return None
    out = _dims(result)
    batch = math.prod(out[:-2])
    size = math.prod(_dims(operands[0])) * math.prod(_dims(operands[1]))
    inner = math.sqrt(size / (math.prod(out) * batch))
    return 2.0 * math.prod(out) * inner if inner.is_integer() else None


def _bytes_sent(kind: str, size: float, group: int) -> float:
    if kind == "all-gather":
        return size * (group - 1)
    if kind == "all-reduce":
        return size * 2 * (group - 1) / group
    if kind in ("reduce-scatter", "all-to-all", "ragged-all-to-all"):
        return size * (group - 1) / group
    return size


def _group_size(program: _Program, collective: _Instruction) -> int:
    """Reads the group size from a list of devices, {{0,1},{2,3}}, or [groups, size]<=[devices]."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", collective.attributes):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", collective.attributes):
        return len(match[1].split(","))
    return program.devices


def _buffers(program: _Program) -> Iterator[Buffer]:
    """Yields the arrays of all instructions that are not inside fusions or reductions."""
    todo, seen = [program.entry], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for instruction in program.computations[name].instructions.values():
            for dtype, dims in _arrays(instruction.shape):
                shape = f"{dtype}[{','.join(map(str, dims))}]"
                yield Buffer(shape, _bytes(dtype, dims))
            if instruction.opcode == "while":
                inner = (_attribute(instruction, which) for which in ("condition", "body"))
                todo += [name for name in inner if name]
            elif instruction.opcode == "conditional":
                todo += _branches(instruction)
            elif instruction.opcode.removesuffix("-start") in ("async", "call"):
                todo += _CALLED.findall(instruction.attributes)


# --- How often a loop runs -----------------------------------------------------------------------

# A value: (place, offset). The place is None for a constant; otherwise it is the index of an
# element that the nearest loop carries, to which the offset is added.
_Path = tuple[int, ...]
_Value = tuple[_Path | None, int]
_SAME_VALUE = ("bitcast", "convert", "copy", "copy-done", "copy-start", "opt-barrier", "reshape")


def _trip_count(program: _Program, frame: _Frame, loop: _Instruction) -> int | None:
    """Returns how often a loop's body runs, or None if the program does not show it."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    condition = _Frame(_attribute(loop, "condition") or "", loop, frame, loop=True)
    body = _Frame(_attribute(loop, "body") or "", loop, frame, loop=True)
    found = _find_comparison(program, condition)
    if found is None:
        return None
    comparison, where = found
    direction = _attribute(comparison, "direction")
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


def _find_comparison(program: _Program, frame: _Frame) -> tuple[_Instruction, _Frame] | None:
    """Returns the comparison at the root of a loop's condition, in a fusion or not."""
    computation = program.computations[frame.computation]
    instruction = computation.instructions[computation.root]
    while instruction.opcode in _SAME_VALUE:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode == "compare":
        return instruction, frame
    called = _CALLED.findall(instruction.attributes)
    if instruction.opcode in ("fusion", "call") and called:
        return _find_comparison(program, _Frame(called[0], instruction, frame))
    return None


def _value(program: _Program, frame: _Frame, name: str, path: _Path = ()) -> _Value | None:
    """Traces element `path` of an instruction back to a constant or to a carried element."""
    computation = program.computations[frame.computation]
    instruction = computation.instructions[name]
    opcode, operands = instruction.opcode, instruction.operands
    if opcode == "constant" and re.fullmatch(r"-?\d+", instruction.argument):
        return None, int(instruction.argument)
    if opcode in _SAME_VALUE:
        return _value(program, frame, operands[0], path)
    if opcode == "get-tuple-element":
        return _value(program, frame, operands[0], (*_numbers(instruction, "index"), *path))
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
        (called,) = _CALLED.findall(instruction.attributes)
        inner = _Frame(called, instruction, frame)
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


def _constant(program: _Program, frame: _Frame, name: str, path: _Path = ()) -> int | None:
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
    body = _Frame(_attribute(frame.caller, "body") or "", frame.caller, frame.parent, loop=True)
    root = program.computations[body.computation].root
    if _value(program, body, root, place) != (place, 0):
        return None
    before = _constant(program, frame.parent, frame.caller.operands[0], place)
    return None if before is None else before + offset
