"""Compiles the sharded loss and its gradient for a TPU pod on any machine, and analyses them.

pip install 'thanos_jax[pod]'
python benchmarks/pod.py [--topology=v5e:16x16,v5p:4x4x8] [--entries=1048576] [--dim=128]
    [--implementation=dense,streaming_ring] [--loss=spread] [--dtype=float32] [--order=ring]
    [--json=FILE]

Several values, separated by commas, give a row for every combination. Nothing runs: the TPU
compiler, which comes with libtpu, compiles value and gradient with respect to the sharded
embeddings ahead of time, as on the chips themselves. It takes half a minute to three minutes for
each row on two cores. A topology is a generation and the chips along each side: v5e:16x16 has 256
chips, v5p:4x4x8 has 128 (Google sells v5p by cores and calls this v5p-256). v6e and tpu7x work too;
a chip of tpu7x counts as two.

The numbers of each program are per device:

  arguments .. temporaries  bytes of high-bandwidth memory, from `memory_analysis()`.
  peak          the compiler's peak of live buffers; it includes vector memory, where tiles live.
  refused       the compiler found that the program does not fit in the chip's memory.
  FLOPs         of the products in the optimized program. A loop counts as often as it runs
                (`cost_analysis()` counts its body once): by the compiler's trip count or, on TPU,
                which has none, by the constants of the loop's condition, first value and step; see
                `hlo`. ">=" if something could not be counted. A float32 product at full precision
                counts once, though TPUs compute it as six bfloat16 products.
  x floor       FLOPs over 4 N^2 d / P, for N entries of width d on P chips: value and gradient if
                each pair is visited once, one product forwards and three backwards.
  sent          bytes sent, with a line for each kind of collective. Overlap counts collectives
                with products between start and done in the scheduled program, and their FLOPs per
                byte sent. It is read from the schedule; nothing is timed.
  compile       seconds on this machine.

--order is the order of the chips along the data axis: "ring" as in `sharding.make_mesh`, "mesh" as
in `jax.make_mesh`. They differ for large flat grids. On v5e with 64 chips or more, the compiler
makes a permute asynchronous only if it is between neighbours.
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
import tpu_compiler
from absl import flags
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thanos_jax import command, losses
from thanos_jax.errors import UserError
from thanos_jax.losses import pairs

LOSSES = {
    "class_conditional_info_nce": losses.class_conditional_info_nce,
    "joint": losses.joint,
    "spread": losses.spread,
    "supcon": losses.supcon,
}
DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}
TEMPERATURE = 0.1
VIEWS = 2

_TOPOLOGY = flags.DEFINE_list("topology", "v5e:16x16", "TPU generation and chips along each side.")
_ENTRIES = flags.DEFINE_list("entries", "1048576", "Embeddings in the global batch, two an image.")
_DIM = flags.DEFINE_list("dim", "128", "Width of an embedding.")
_IMPLEMENTATION = flags.DEFINE_list(
    "implementation",
    "dense,streaming_gather,streaming_ring",
    f"Some of {', '.join(pairs.OPTIONS)}.",
)
_LOSS = flags.DEFINE_list("loss", "spread", f"Some of {', '.join(LOSSES)}.")
_DTYPE = flags.DEFINE_list("dtype", "float32", f"Dtype of embeddings: of {', '.join(DTYPES)}.")
_ORDER = flags.DEFINE_list(
    "order", "ring", f"Chips along the data axis: of {', '.join(tpu_compiler.ORDERS)}."
)
_JSON = flags.DEFINE_string("json", None, "File for the numbers.")


class Case(NamedTuple):
    """A program to compile."""

    topology: str
    order: str
    loss: str
    implementation: str
    dtype: str
    entries: int
    dim: int


def cases_of_flags() -> list[Case]:
    """Checks the flags; returns a case for every combination of their values."""
    return [
        Case(*values)
        for values in itertools.product(
            tpu_compiler.some("topology", _TOPOLOGY.value),
            tpu_compiler.options("order", _ORDER.value, tpu_compiler.ORDERS),
            tpu_compiler.options("loss", _LOSS.value, LOSSES),
            tpu_compiler.options("implementation", _IMPLEMENTATION.value, pairs.OPTIONS),
            tpu_compiler.options("dtype", _DTYPE.value, DTYPES),
            tpu_compiler.positive("entries", _ENTRIES.value),
            tpu_compiler.positive("dim", _DIM.value),
        )
    ]


def lower(case: Case, devices: list[Any]) -> jax.stages.Lowered:
    """Lowers value and gradient as the trainer computes them."""
    mesh = Mesh(tpu_compiler.in_order(case.order, devices), ("data",), axis_types=(AxisType.Auto,))
    loss = LOSSES[case.loss]

    def shard(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
        return loss(
            embeddings,
            labels,
            temperature=TEMPERATURE,
            axis_name="data",
            implementation=case.implementation,
        )

    sharded = jax.shard_map(shard, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P())
    placement = NamedSharding(mesh, P("data"))
    batch = case.entries // VIEWS
    embeddings = jax.ShapeDtypeStruct(
        (batch, VIEWS, case.dim), DTYPES[case.dtype], sharding=placement
    )
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=placement)
    # The losses choose tiles and operands by jax's default backend, which here is not the backend
    # that the program is compiled for.
    with mock.patch.object(jax, "default_backend", return_value="tpu"):
        traced = jax.jit(jax.value_and_grad(sharded)).trace(embeddings, labels)
    return traced.lower(lowering_platforms=("tpu",))


def measure(case: Case, devices: list[Any]) -> dict[str, Any]:
    """Compiles a case and returns its numbers; a refused case has none."""
    row: dict[str, Any] = {
        **case._asdict(),
        "chips": len(devices),
        "device": devices[0].device_kind,
        "views": VIEWS,
        "temperature": TEMPERATURE,
        **tpu_compiler.numbers(lower(case, devices)),
    }
    if row["refused"]:
        return row
    floor = 4 * case.entries**2 * case.dim / len(devices)
    return row | {"floor_flops": floor, "flops_over_floor": row["flops"] / floor}


_SIZES = ("argument", "output", "temporary", "peak")
_COLUMNS = (
    ("loss", 26),
    ("implementation", 16),
    ("dtype", 8),
    ("entries", 8),
    ("dim", 4),
    ("arguments", 10),
    ("outputs", 10),
    ("temporaries", 11),
    ("peak", 10),
    ("FLOPs", 10),
    ("x floor", 9),
    ("sent", 10),
    ("compile", 8),
)


def table_header(row: dict[str, Any]) -> str:
    """Returns the lines above the rows of one topology and order."""
    names = "  ".join(name.ljust(width) for name, width in _COLUMNS)
    return f"\n{row['topology']}: {row['chips']} x {row['device']}, {row['order']} order\n{names}"


def table_lines(row: dict[str, Any]) -> str:
    """Returns the text of a row, with a line for each kind of collective."""
    cells = [row["loss"], row["implementation"], row["dtype"], str(row["entries"]), str(row["dim"])]
    if row["refused"] is None:
        least = "" if row["exact"] else ">="
        cells += [
            *(
                tpu_compiler.size(row[f"{what}_bytes"])
                for what in ("argument", "output", "temporary", "peak")
            ),
            f"{least}{row['flops']:.3g}",
            f"{least}{row['flops_over_floor']:.3f}",
            tpu_compiler.size(row["bytes_sent"]),
            f"{row['compile_seconds']:.1f} s",
        ]
    else:
        cells += [f"refused: {row['refused']}"]
    lines = [
        "  ".join(cell.ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=False))
    ]
    return "\n".join(line.rstrip() for line in [*lines, *tpu_compiler.traffic_lines(row)])


def main(argv: Sequence[str]) -> None:
    """Compiles every case and prints its numbers."""
    del argv
    tpu_compiler.keep_off_accelerators()
    cases = cases_of_flags()
    if _JSON.value and not pathlib.Path(_JSON.value).absolute().parent.is_dir():
        raise UserError(f"--json: expected a file in a folder that exists, got {_JSON.value!r}")
    chips = {case.topology: tpu_compiler.chips_of(case.topology) for case in cases}
    for case in cases:
        smallest = VIEWS * len(chips[case.topology])
        if case.entries % smallest:
            raise UserError(
                f"--entries: expected a multiple of {smallest}, {VIEWS} views on each of the "
                f"{len(chips[case.topology])} chips of {case.topology}, got {case.entries}"
            )
    print(f"jax {jax.__version__}, libtpu {metadata.version('libtpu')}")
    rows: list[dict[str, Any]] = []
    for case in cases:
        row = measure(case, chips[case.topology])
        if not rows or any(row[key] != rows[-1][key] for key in ("topology", "order")):
            print(table_header(row))
        print(table_lines(row), flush=True)
        rows.append(row)
        if _JSON.value:  # after every row: the next may take a minute, or fail
            versions = {"jax": jax.__version__, "libtpu": metadata.version("libtpu")}
            text = json.dumps({**versions, "rows": rows}, indent=2)
            pathlib.Path(_JSON.value).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    command.start(main)
