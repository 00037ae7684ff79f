"""The same program in every process: compiled programs are found again, and resuming is exact."""

import os
import subprocess
import sys

import pytest

_LOWER = """
import jax, jax.numpy as jnp
from thanos_jax import losses
shapes = jax.ShapeDtypeStruct((8, 2, 4), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)
for name in ("spread", "joint", "supcon"):
    for options in ({}, {"implementation": "streaming"}):
        loss = lambda z, y: getattr(losses, name)(z, y, **options)
        print(jax.jit(jax.grad(loss)).lower(*shapes).as_text())
"""


@pytest.mark.slow
def test_programs_do_not_depend_on_the_order_of_sets():
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _LOWER],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2, 3)
    ]
    first, *others = [process.communicate()[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    assert first.count("module @jit") == 6
    assert others == [first, first]
