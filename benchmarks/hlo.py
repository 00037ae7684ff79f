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

hlo_text.py reads the text, hlo_loops.py finds how often a loop runs, hlo_operations.py has the cost
of one operation. None of them imports more than NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hlo_loops import Frame, trip_count
from hlo_operations import bytes_sent, convolution_flops, dot_flops, group_size, library_flops
from hlo_text import (
    CALLED,
    Instruction,
    Program,
    arrays,
    attribute,
    branches,
    dimensions,
    num_bytes,
    parse,
)


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
    program = parse(text)
    cost = _cost(program, Frame(program.entry))
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


class _Cost(NamedTuple):
    flops: float = 0.0
    exponentials: float = 0.0
    collectives: tuple[tuple[str, Traffic], ...] = ()
    unknown_loops: tuple[str, ...] = ()
    opaque_calls: tuple[str, ...] = ()


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


def _cost(program: Program, frame: Frame) -> _Cost:
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


def _done(program: Program, following: list[Instruction]) -> int | None:
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


def _calls(program: Program, fusion: Instruction, target: str) -> bool:
    """Whether an instruction is a fusion with a foreign call of `target`."""
    return fusion.opcode == "fusion" and any(
        instruction.opcode == "custom-call" and f'"{target}"' in instruction.attributes
        for name in CALLED.findall(fusion.attributes)
        for instruction in program.computations[name].instructions.values()
    )


def _continues(program: Program, fusion: Instruction) -> bool:
    """Whether a fusion contains a collective only because it continues one that was started."""
    called = CALLED.findall(fusion.attributes) if fusion.opcode == "fusion" else []
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


def _instruction_cost(program: Program, frame: Frame, instruction: Instruction) -> _Cost:
    def called(name: str, *, loop: bool = False) -> _Cost:
        return _cost(program, Frame(name, instruction, frame, loop))

    def shapes() -> list[str]:
        table = program.computations[frame.computation].instructions
        return [table[operand].shape for operand in instruction.operands]

    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "while":
        trips = trip_count(program, frame, instruction)
        body = called(attribute(instruction, "body") or "", loop=True)
        if trips is None:
            return body._replace(unknown_loops=(*body.unknown_loops, instruction.name))
        return _times(body, trips)
    if opcode == "conditional":
        return max((called(name) for name in branches(instruction)), key=lambda c: c.flops)
    if opcode in ("async", "call", "fusion"):
        cost = _sum([called(name) for name in CALLED.findall(instruction.attributes)])
        return cost._replace(collectives=()) if _continues(program, instruction) else cost
    if opcode == "custom-call":
        target = (attribute(instruction, "custom_call_target") or "").strip('"')
        flops = library_flops(target, instruction.shape, shapes())
        unknown = flops is None and target not in _HARMLESS_CALLS
        return _Cost(flops=flops or 0.0, opaque_calls=(target,) if unknown else ())
    if opcode == "dot":
        return _Cost(flops=dot_flops(instruction, *shapes()))
    if opcode == "convolution":
        return _Cost(flops=convolution_flops(instruction, *shapes()))
    if opcode == "exponential":
        return _Cost(exponentials=float(math.prod(dimensions(instruction.shape))))
    if opcode in _COLLECTIVES:
        size = sum(num_bytes(*array) for shape in shapes() for array in arrays(shape))
        sent = bytes_sent(opcode, size, group_size(program, instruction))
        return _Cost(collectives=((opcode, Traffic(1.0, sent)),))
    return _Cost()


def _buffers(program: Program) -> Iterator[Buffer]:
    """Yields the arrays of all instructions that are not inside fusions or reductions."""
    todo, seen = [program.entry], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for instruction in program.computations[name].instructions.values():
            for dtype, dims in arrays(instruction.shape):
                shape = f"{dtype}[{','.join(map(str, dims))}]"
                yield Buffer(shape, num_bytes(dtype, dims))
            if instruction.opcode == "while":
                inner = (attribute(instruction, which) for which in ("condition", "body"))
                todo += [name for name in inner if name]
            elif instruction.opcode == "conditional":
                todo += branches(instruction)
            elif instruction.opcode.removesuffix("-start") in ("async", "call"):
                todo += CALLED.findall(instruction.attributes)
