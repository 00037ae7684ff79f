"""Losses called outside `jax.jit`: what is compiled, what is kept, how long a call takes."""

import functools
import pathlib
import resource
import time

import jax
import numpy as np
import oracle
import pytest

from thanos_jax import losses
from thanos_jax.losses.pairs import streaming


def gradient_of(loss, implementation, temperature=0.1):
    call = functools.partial(loss.call, losses, implementation=implementation)
    return jax.grad(lambda z, y: call(z, y, temperature=temperature))


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        ("spread", "streaming"),
        pytest.param("joint_attract", "streaming", marks=pytest.mark.slow),
        pytest.param("spread", "dense", marks=pytest.mark.slow),
    ],
)
def test_second_call_compiles_nothing(name, implementation):
    """Nor does another temperature, if it is of the same kind: a schedule costs nothing."""
    z, labels = jax.numpy.asarray(oracle.embeddings_like(2)), oracle.labels_like("random")
    loss = oracle.BY_NAME[name]
    first = gradient_of(loss, implementation)(z, labels)
    with oracle.lowered_programs() as programs:
        second = gradient_of(loss, implementation)(z, labels)
        gradient_of(loss, implementation, temperature=0.2)(z, labels)
    assert not programs
    np.testing.assert_array_equal(first, second)


@pytest.fixture
def whole_tiles(monkeypatch):
    monkeypatch.setitem(streaming.TILE, "cpu", 1024)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_tiles")
def test_two_hundred_gradients():
    """N = 2,048: no compilation, less than 20 MiB more, and within twice dense's time."""
    rng = np.random.default_rng(0)
    z = jax.numpy.asarray(rng.normal(size=(1024, 2, 64)), "float32")
    labels = jax.numpy.asarray(rng.integers(0, 10, 1024))

    def resident():
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    seconds = {}
    for implementation in ("streaming", "dense"):
        call = gradient_of(oracle.BY_NAME["supcon"], implementation)
        for _ in range(40):  # memory is handed out in large pieces at first
            jax.block_until_ready(call(z, labels))
        before, times = resident(), []
        with oracle.lowered_programs() as programs:
            for _ in range(200 if implementation == "streaming" else 20):
                begun = time.perf_counter()
                jax.block_until_ready(call(z, labels))
                times.append(time.perf_counter() - begun)
        seconds[implementation] = np.median(times)
        if implementation == "streaming":
            assert not programs
            assert resident() - before < 20
    assert seconds["streaming"] < 2 * seconds["dense"], seconds
