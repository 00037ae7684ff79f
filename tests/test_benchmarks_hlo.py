"""The analysis of compiled programs that claims about cost and communication rest on."""

import json
import pathlib
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from thanos_jax import losses

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import hlo
from tpu_compiler import refusal

ROOT = pathlib.Path(__file__).parents[1]
KNOWN = re.compile(r'"known_trip_count":\{[^}]*\},?')


def compiled_text(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def on_eight_devices(function, **options):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return jax.shard_map(
        function, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False, **options
    )


def both_ways(text):
    """The program as it is, and with trip counts left for the analysis to find."""
    stripped = KNOWN.sub("", text)
    assert "known_trip_count" in text
    assert "known_trip_count" not in stripped
    return hlo.summarize(text), hlo.summarize(stripped)


@pytest.mark.parametrize(
    ("function", "shapes", "flops"),
    [
        (jnp.matmul, [(32, 48), (48, 64)], 2 * 32 * 48 * 64),
        (lambda x, y: jax.nn.relu(x @ y + 1.0), [(32, 48), (48, 64)], 2 * 32 * 48 * 64),
        (lambda x, y: (x @ y, y.T @ x.T), [(32, 48), (48, 64)], 2 * 2 * 32 * 48 * 64),
        (partial(jnp.einsum, "bik,bjk->bij"), [(5, 32, 48), (5, 64, 48)], 2 * 5 * 32 * 48 * 64),
        (partial(jnp.einsum, "abk,cab->kc"), [(6, 8, 48), (64, 6, 8)], 2 * 6 * 8 * 48 * 64),
        (partial(lax.conv, window_strides=(1, 1), padding="VALID"), None, 2 * 36 * 9 * 16 * 32),
    ],
    ids=["matmul", "fused", "two", "batched", "two contracted", "convolution"],
)
def test_products(function, shapes, flops):
    text = compiled_text(function, *(shapes or [(1, 16, 8, 8), (32, 16, 3, 3)]))
    summary = hlo.summarize(text)
    assert summary.flops == flops
    assert summary.exact


def scan(body, carry, length):
    return lax.scan(lambda carry, _: (body(carry), None), carry, None, length=length)[0]


def nested(x):
    return scan(lambda y: scan(lambda z: jnp.tanh(z @ z), y, 7) @ y, x, 5)


def counting_down(x):
    return lax.while_loop(lambda c: c[0] >= 3, lambda c: (c[0] - 4, c[1] @ c[1]), (30, x))[1]


def stepping(x):
    return lax.fori_loop(2, 13, lambda i, y: jnp.sin(y @ y) * i, x)


def bound_first(x):
    return lax.while_loop(lambda c: lax.gt(20, c[0]), lambda c: (2 + c[0], c[1] @ c[1]), (1, x))[1]


@pytest.mark.parametrize(
    ("function", "times"), [(nested, 5 * 8), (stepping, 11)], ids=["nested", "fori_loop"]
)
def test_loops_count_as_often_as_they_run(function, times):
    for summary in both_ways(compiled_text(function, (64, 64))):
        assert summary.flops == times * 2 * 64**3
        assert summary.exact


@pytest.mark.parametrize(("function", "times"), [(counting_down, 7), (bound_first, 10)])
def test_loops_of_other_forms(function, times):
    summary = hlo.summarize(KNOWN.sub("", compiled_text(function, (64, 64))))
    assert summary.flops == times * 2 * 64**3
    assert summary.exact


def test_a_loop_that_depends_on_data_is_named():
    def until_small(x):
        return lax.while_loop(lambda y: jnp.sum(y) > 1.0, lambda y: y @ y, x)

    summary = hlo.summarize(compiled_text(until_small, (64, 64)))
    assert summary.flops == 2 * 64**3
    assert len(summary.unknown_loops) == 1
    assert not summary.exact


def test_a_bound_that_is_an_argument_is_not_known():
    def some(x, n):
        return lax.fori_loop(0, n[0].astype(int), lambda _, y: jnp.sin(y @ y), x)

    assert hlo.summarize(compiled_text(some, (64, 64), (1,))).unknown_loops


def test_the_costliest_branch_counts():
    def branch(x):
        return lax.cond(x[0, 0] > 0, lambda y: jnp.sin(y @ y) @ y, lambda y: y @ y, x)

    assert hlo.summarize(compiled_text(branch, (64, 64))).flops == 2 * 2 * 64**3


def test_exponentials():
    def sums(x):
        return scan(lambda y: y + jnp.exp(y @ y), x, 3)

    assert hlo.summarize(compiled_text(sums, (64, 64))).exponentials == 3 * 64 * 64


def test_collectives():
    def exchange(x):
        ring = [(i, (i + 1) % 8) for i in range(8)]
        x = scan(lambda y: lax.ppermute(jnp.sin(y), "data", ring), x, 3)
        everyone = lax.all_gather(x, "data", tiled=True)
        return lax.psum_scatter(everyone + lax.psum(jnp.sum(x), "data"), "data", tiled=True)

    text = compiled_text(on_eight_devices(exchange), (8 * 16, 32))
    block = 16 * 32 * 4
    for summary in both_ways(text):
        traffic = {kind: each[:2] for kind, each in summary.collectives.items()}
        assert traffic == {
            "collective-permute": (3, 3 * block),
            "all-gather": (1, 7 * block),
            "all-reduce": (1, 2 * 7 / 8 * 4),
            "reduce-scatter": (1, 7 * block),
        }
        assert all(each.overlapped == 0 for each in summary.collectives.values())


def test_groups_of_devices():
    def within_pairs(x):
        groups = [[0, 1], [2, 3], [4, 5], [6, 7]]
        return lax.all_gather(x, "data", axis_index_groups=groups, tiled=True)

    text = compiled_text(on_eight_devices(within_pairs), (8 * 16, 32))
    assert hlo.summarize(text).collectives["all-gather"][:2] == (1, 16 * 32 * 4)


@pytest.mark.parametrize("optimized", [True, False])
def test_the_dense_loss_on_eight_devices(optimized):
    """The definition: 6 N^2 d / P, everything gathered, and a similarity matrix of [N / P, N]."""
    rows, dim, devices = 512, 64, 8

    def loss(embeddings):
        labels = jnp.arange(rows // devices // 2) % 5
        return losses.spread(embeddings, labels, axis_name="data", implementation="dense")

    def gradient(embeddings):
        return jax.grad(loss)(embeddings)

    options = None if optimized else {"xla_backend_optimization_level": 0}
    argument = jax.ShapeDtypeStruct((rows // 2, 2, dim), jnp.float32)
    lowered = jax.jit(on_eight_devices(gradient)).lower(argument)
    summary = hlo.summarize(lowered.compile(compiler_options=options).as_text())
    assert summary.exact
    assert summary.flops == pytest.approx(6 * rows**2 * dim / devices, rel=0.05)
    assert summary.largest_buffer.bytes == rows * rows // devices * 4
    assert str(rows) in summary.largest_buffer.shape
    sent = sum(each.bytes_sent for each in summary.collectives.values())
    assert sent >= 2 * (devices - 1) * rows // devices * dim * 4


# What CPU programs do not have, as TPU and GPU programs write it.
LOOP = """HloModule ring, is_scheduled=true, num_partitions=4

%fused (a: f32[8,16], b: f32[8,16]) -> f32[8,8] {
  %a = f32[8,16]{1,0:T(8,128)} parameter(0)
  %b = f32[8,16]{1,0:T(8,128)S(1)} parameter(1)
  ROOT %product = f32[8,8]{1,0:T(8,128)} convolution(%a, %b), dim_labels=bf_oi->bf
}

%inner_body (p: (s32[], f32[8,16], s32[])) -> (s32[], f32[8,16], s32[]) {
  %p = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}, /*index=2*/s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %z = f32[8,16]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %n = s32[] get-tuple-element(%p), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %s = f32[8,8]{1,0:T(8,128)S(1)} fusion(%z, %z), kind=kOutput, calls=%fused
  ROOT %out = (s32[], f32[8,16], s32[]) tuple(%next, %z, %n)
}

%inner_condition (p: (s32[], f32[8,16], s32[])) -> pred[] {
  %p = (s32[], f32[8,16], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=2
  ROOT %more = pred[] compare(%i, %n), direction=LT
}

%body (p: (s32[], f32[8,16], s32[])) -> (s32[], f32[8,16], s32[]) {
  %p = (s32[], f32[8,16], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %z = f32[8,16] get-tuple-element(%p), index=1
  %n = s32[] get-tuple-element(%p), index=2
  %zero = s32[] constant(0)
  %one = s32[] constant(1)
  %early = (f32[8,16], f32[8,16], u32[]) collective-permute-start(%z), source_target_pairs={{0,1}}
  %start = (s32[], f32[8,16], s32[]) tuple(%zero, %z, %n)
  %inner = (s32[], f32[8,16], s32[]) while(%start), condition=%inner_condition, body=%inner_body
  %moved = f32[8,16] collective-permute-done(%early)
  %late = (f32[8,16], f32[8,16], u32[]) collective-permute-start(%moved), source_target_pairs={{0,1}}
  %next = s32[] add(%i, %one)
  %again = f32[8,16] collective-permute-done(%late)
  ROOT %out = (s32[], f32[8,16], s32[]) tuple(%next, %again, %n)
}

%compare (i: s32[]) -> pred[] {
  %i = s32[] parameter(0)
  %bound = s32[] constant(3)
  ROOT %more = pred[] compare(%i, %bound), direction=LT
}

%condition (p: (s32[], f32[8,16], s32[])) -> pred[] {
  %p = (s32[], f32[8,16], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %wrapped = pred[] fusion(%i), kind=kLoop, calls=%compare
}

ENTRY %main (z: f32[8,16]) -> f32[8,16] {
  %z = f32[8,16] parameter(0)
  %zero = s32[] constant(0)
  %five = s32[] constant(5)
  %five_moved = s32[] opt-barrier(%five)
  %five_again = s32[] reshape(%five_moved)
  %five_copied = s32[] copy(%five_again)
  %start = (s32[], f32[8,16], s32[]) tuple(%zero, %z, %five_copied)
  %outer = (s32[], f32[8,16], s32[]) while(%start), condition=%condition, body=%body
  ROOT %result = f32[8,16] get-tuple-element(%outer), index=1
}
"""  # noqa: E501


def test_overlap_in_a_tpu_schedule():
    """3 hops of 5 tiles, which the outer loop carries round; one of two permutes is early."""
    summary = hlo.summarize(LOOP)
    product, block = 2 * 8 * 8 * 16, 8 * 16 * 4
    assert summary.exact
    assert summary.flops == 3 * 5 * product
    assert summary.collectives == {
        "collective-permute": hlo.Traffic(6, 6 * block, 3, 3 * block, 3 * 5 * product)
    }
    assert summary.largest_buffer == hlo.Buffer("f32[8,16]", block)


@pytest.mark.parametrize(
    ("first", "step", "direction", "bound"),
    [
        (0, 1, "LT", 3),
        (2, 3, "LT", 14),
        (2, 3, "LE", 14),
        (9, -2, "GT", 1),
        (9, -2, "GE", 1),
        (-3, 2, "NE", 7),
        (5, 1, "LT", 5),
        (5, 1, "LE", 5),
        (8, 1, "LE", 5),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_trip_counts(first, step, direction, bound, swapped):
    holds = {"LT": int.__lt__, "LE": int.__le__, "GT": int.__gt__, "GE": int.__ge__}
    counter, times = first, 0
    while (holds | {"NE": int.__ne__})[direction](counter, bound):
        counter, times = counter + step, times + 1
    sides = "%i, %bound"
    if swapped:
        sides = "%bound, %i"
        direction = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}.get(direction, direction)
    text = (
        LOOP.replace("constant(3)", f"constant({bound})")
        .replace("compare(%i, %bound), direction=LT", f"compare({sides}), direction={direction}")
        .replace("%zero = s32[] constant(0)\n  %five", f"%zero = s32[] constant({first})\n  %five")
        .replace("one = s32[] constant(1)\n  %early", f"one = s32[] constant({step})\n  %early")
    )
    summary = hlo.summarize(text)
    assert summary.exact
    assert summary.flops == times * 5 * 2 * 8 * 8 * 16


@pytest.mark.parametrize(
    ("step", "direction"), [(-1, "LT"), (0, "LT"), (2, "NE"), (1, "EQ")], ids=str
)
def test_loops_that_do_not_end_are_not_counted(step, direction):
    one = "one = s32[] constant({})\n  %early"
    text = LOOP.replace(one.format(1), one.format(step))
    text = text.replace("%i, %bound), direction=LT", f"%i, %bound), direction={direction}")
    assert hlo.summarize(text).unknown_loops == ("outer",)


def test_overlap_is_unknown_without_a_schedule():
    summary = hlo.summarize(LOOP.replace("is_scheduled=true, ", ""))
    assert not summary.scheduled
    assert summary.collectives["collective-permute"].overlapped == 0


def test_few_products_are_no_overlap():
    summary = hlo.summarize(LOOP.replace("constant(5)", "constant(0)"))
    assert summary.exact
    assert summary.flops == 0
    assert summary.collectives["collective-permute"].overlapped == 0


def test_a_bound_that_changes_is_not_known():
    changed = LOOP.replace("tuple(%next, %again, %n)", "tuple(%next, %again, %next)")
    summary = hlo.summarize(changed)
    assert summary.unknown_loops == ("inner",)
    assert summary.flops == 3 * 2 * 8 * 8 * 16


def test_a_counter_that_is_set_anew_is_not_known():
    changed = LOOP.replace("%next = s32[] add(%i, %one)\n  %s", "%next = s32[] add(%n, %one)\n  %s")
    assert hlo.summarize(changed).unknown_loops == ("inner",)


def test_what_runs_beside_two_transfers_counts_once():
    """A permute of the whole program goes on beside the loop with permutes of its own."""
    outer = "  %outer = (s32[], f32[8,16], s32[]) while(%start), condition=%condition, body=%body\n"
    start = (
        "%all = (f32[8,16], f32[8,16]) collective-permute-start(%z), source_target_pairs={{0,1}}"
    )
    summary = hlo.summarize(
        LOOP.replace(outer, f"  {start}\n{outer}  %end = f32[8,16] collective-permute-done(%all)\n")
    )
    product, block = 2 * 8 * 8 * 16, 8 * 16 * 4
    assert summary.collectives == {
        "collective-permute": hlo.Traffic(7, 7 * block, 4, 4 * block, 3 * 5 * product)
    }


FUSED = """HloModule gather, is_scheduled=true, num_partitions=8

%begin (x: f32[8,16]) -> (f32[8,16], f32[64,16], u32[]) {
  %x = f32[8,16] parameter(0)
  %gathered = f32[64,16] all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %call = (f32[8,16], f32[64,16], u32[]) custom-call(%gathered), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (x: f32[8,16], y: f32[64,16], t: u32[]) -> (f32[8,8], f32[64,16], u32[]) {
  %x = f32[8,16] parameter(0)
  %y = f32[64,16] parameter(1)
  %t = u32[] parameter(2)
  %gathered = f32[64,16] all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %product = f32[8,8] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %out = (f32[8,8], f32[64,16], u32[]) tuple(%product, %y, %t)
}

%end (x: f32[8,16], y: f32[64,16], t: u32[]) -> f32[64,16] {
  %x = f32[8,16] parameter(0)
  %y = f32[64,16] parameter(1)
  %t = u32[] parameter(2)
  %gathered = f32[64,16] all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %call = f32[64,16] custom-call(%x, %y, %gathered, %t), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: f32[8,16]) -> f32[64,16] {
  %x = f32[8,16] parameter(0)
  %start = (f32[8,16], f32[64,16], u32[]) fusion(%x), kind=kCustom, calls=%begin
  %y0 = f32[64,16] get-tuple-element(%start), index=1
  %t0 = u32[] get-tuple-element(%start), index=2
  %between = (f32[8,8], f32[64,16], u32[]) fusion(%x, %y0, %t0), kind=kOutput, calls=%async_collective_fusion.1
  %y1 = f32[64,16] get-tuple-element(%between), index=1
  %t1 = u32[] get-tuple-element(%between), index=2
  ROOT %done = f32[64,16] fusion(%x, %y1, %t1), kind=kCustom, calls=%end
}
"""  # noqa: E501


def test_a_collective_fused_with_products_counts_once():
    summary = hlo.summarize(FUSED)
    product, block = 2 * 8 * 8 * 16, 8 * 16 * 4
    assert summary.exact
    assert summary.flops == product
    assert summary.collectives == {"all-gather": hlo.Traffic(1, 3 * block, 1, 3 * block, product)}


def module(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HELPER}ENTRY %main () -> f32[] {{\n{body}\n}}\n"


HELPER = """HloModule m, is_scheduled=true, num_partitions=4

%gather (x: f32[8,16]) -> f32[32,16] {
  %x = f32[8,16] parameter(0)
  ROOT %all = f32[32,16] all-gather(%x), replica_groups={}, dimensions={0}
}, execution_thread="sparsecore"

"""


def test_a_collective_on_another_core():
    """How TPU v7x writes it: a call that starts, and one that waits for it."""
    summary = hlo.summarize(
        module(
            "%x = f32[8,16] parameter(0)",
            '%a = s32[] custom-call(), custom_call_target="PrepareAsyncCallStart"',
            "%b = ((f32[8,16]), f32[32,16]) call-start(%x, %a), to_apply=%gather",
            "%c = f32[8,512] broadcast(%x), dimensions={0,1}",
            "%d = f32[8,8] dot(%c, %c), lhs_contracting_dims={1}, rhs_contracting_dims={1}",
            "ROOT %e = f32[32,16] call-done(%b)",
        )
    )
    product, sent = 2 * 8 * 8 * 512, 3 * 8 * 16 * 4
    assert summary.exact
    assert summary.collectives == {"all-gather": hlo.Traffic(1, sent, 1, sent, product)}


def test_buffers_of_called_computations():
    call = "%b = f32[8,16] call(%a), to_apply=%gather"
    summary = hlo.summarize(module("%a = f32[8,16] parameter(0)", f"ROOT {call}"))
    assert summary.largest_buffer == hlo.Buffer("f32[32,16]", 32 * 16 * 4)


def test_products_of_libraries():
    summary = hlo.summarize(
        module(
            "%a = f32[3,32,48] parameter(0)",
            "%b = f32[3,48,64] parameter(1)",
            '%c = f32[3,32,64] custom-call(%a, %b), custom_call_target="__onednn$matmul"',
            "ROOT %d = (f32[3,32,64], s8[99]) custom-call(%a, %b), "
            'custom_call_target="__cublas$gemm"',
        )
    )
    assert summary.flops == 2 * (2 * 3 * 32 * 48 * 64)
    assert summary.exact


def test_foreign_code_is_named():
    summary = hlo.summarize(
        module(
            "%a = f32[32,48] parameter(0)",
            'ROOT %b = f32[32,48] custom-call(%a), custom_call_target="tpu_custom_call"',
        )
    )
    assert summary.opaque_calls == ("tpu_custom_call",)
    assert not summary.exact


def test_a_batch_as_a_convolution_over_padding():
    """Five products as TPU writes them: the batch is a dimension where one position in 5 counts."""
    summary = hlo.summarize(
        module(
            "%a = f32[32,5,48] parameter(0)",
            "%b = f32[5,48,64] parameter(1)",
            "ROOT %c = f32[32,5,64] convolution(%a, %b), "
            "window={size=5 stride=4 pad=0_0 lhs_dilate=5}, dim_labels=b0f_0io->b0f",
        )
    )
    assert summary.flops == 2 * 5 * 32 * 48 * 64


def test_what_is_no_program():
    with pytest.raises(ValueError, match=r"text: expected an HLO module .*, got 'module @jit_f"):
        hlo.summarize("module @jit_f {}")


def test_refusals():
    hbm = "the total memory required for HLO temporaries (17.02G) exceeds available HBM (15.75G)."
    first = refusal(f"RESOURCE_EXHAUSTED: Ran out of memory on HBM, {hbm}")
    assert first == "RESOURCE_EXHAUSTED needs 17.02G of 15.75G"
    second = refusal("RESOURCE_EXHAUSTED: Ran out of memory. Used 20.4G of 15.8G hbm. Exceeded")
    assert second == "RESOURCE_EXHAUSTED needs 20.4G of 15.8G"
    assert refusal("RESOURCE_EXHAUSTED: too many\nmore") == "RESOURCE_EXHAUSTED: too many"
    assert refusal("INTERNAL: no") is None


def run_pod(*flags, file="pod.py"):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / file), *flags],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        timeout=300,
    )


@pytest.mark.slow
def test_a_bad_flag_is_told():
    done = run_pod("--entries=65536,many")
    assert done.returncode == 1
    expected = "error: --entries: expected positive integers, got 'many'"
    assert done.stderr.strip().endswith(expected)


def test_the_command(tmp_path):
    """With libtpu a table and its numbers; without, what to install."""
    file = tmp_path / "pod.json"
    flags = ("--topology=v5e:2x2", "--entries=1024", "--implementation=dense", f"--json={file}")
    done = run_pod(*flags)
    try:
        import libtpu  # noqa: F401
    except ImportError:
        assert done.returncode == 1
        assert "pip install 'thanos_jax[pod]'" in done.stderr
        assert not file.exists()
    else:
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(file.read_text())["rows"]
        assert row["flops"] == pytest.approx(6 * 1024**2 * 128 / 4, rel=0.02)
        assert row["exact"]
        assert row["peak_bytes"] > row["argument_bytes"] > 0
        assert "x floor" in done.stdout


@pytest.mark.slow
def test_the_command_of_whole_steps(tmp_path):
    """As above; the FLOPs are those of the model and, few, of the loss."""
    file = tmp_path / "pod.json"
    flags = ("--topology=v5e:2x2", "--encoder=vit", "--side=32", "--batch=32", "--classes=10",
             f"--json={file}")  # fmt: skip
    done = run_pod(*flags, file="pod_training.py")
    try:
        import libtpu  # noqa: F401
    except ImportError:
        assert done.returncode == 1
        assert "pip install 'thanos_jax[pod]'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        step, forward = json.loads(file.read_text())
        assert step["flops"] == pytest.approx(step["model_flops"], rel=0.1)
        assert forward["flops"] == pytest.approx(forward["model_flops"], rel=0.1)
