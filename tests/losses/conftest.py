"""Makes `oracle` importable and sets jax's strict modes for every loss test."""

import contextlib
import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def strict_and_quick():
    """A caller's training loop may forbid implicit promotion; the losses have to run there too.

    Compiling is most of the time these tests take, and half of that is optimization.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        jax.config.update("jax_disable_most_optimizations", True)
        stack.callback(jax.config.update, "jax_disable_most_optimizations", before)
        yield
