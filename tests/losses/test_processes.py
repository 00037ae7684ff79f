"""The loss over devices of two processes, as on two machines."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import oracle
import pytest

from thanos_jax import losses

PROGRAM = """
    import sys

    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    address, process, implementation, given, result = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    assert jax.device_count() == 4 and jax.local_device_count() == 2
    from thanos_jax import losses

    arrays = dict(np.load(given))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    placement = NamedSharding(mesh, spec)
    half = len(arrays["labels"]) // 2
    rows = slice(int(process) * half, (int(process) + 1) * half)
    placed = {
        name: jax.make_array_from_process_local_data(placement, array[rows])
        for name, array in arrays.items()
    }

    def value(embeddings, labels):
        return losses.spread(
            embeddings, labels, denominator="one_positive", temperature=0.2, axis_name="data",
            implementation=implementation,
        )

    step = jax.shard_map(
        jax.value_and_grad(value), mesh=mesh, in_specs=(spec, spec),
        out_specs=(PartitionSpec(), spec),
    )
    loss, gradient = jax.jit(step)(placed["embeddings"], placed["labels"])
    gradient = process_allgather(gradient, tiled=True)
    if process == "0":
        np.savez(result, loss=np.asarray(loss.addressable_data(0)), gradient=gradient)
"""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("implementation", ["streaming_gather", "streaming_ring"])
def test_two_processes(implementation, tmp_path):
    embeddings = oracle.embeddings_like(2, batch=16, seed=40)
    labels = np.random.default_rng(0).integers(0, 3, size=16).astype(np.int32)
    np.savez(tmp_path / "given.npz", embeddings=embeddings, labels=labels)
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    names = (str(tmp_path / "given.npz"), str(tmp_path / "result.npz"))
    command = [sys.executable, str(tmp_path / "program.py"), address]
    processes = [
        subprocess.Popen(
            [*command, str(index), implementation, *names],
            env=environment(),
            stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()

    def value(z):
        return losses.spread(
            z, labels, denominator="one_positive", temperature=0.2, implementation="dense"
        )

    expected, slope = jax.jit(jax.value_and_grad(value))(embeddings)
    with np.load(tmp_path / "result.npz") as result:
        np.testing.assert_allclose(result["loss"], expected, rtol=1e-5)
        np.testing.assert_allclose(result["gradient"], slope, rtol=0, atol=1e-6)


def environment():
    """This one, with this package, without the eight devices that the other tests ask for."""
    root = str(pathlib.Path(losses.__file__).parents[2])
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = " ".join(flag for flag in flags if "device_count" not in flag)
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
