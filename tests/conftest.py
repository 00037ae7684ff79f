"""Eight host devices and one cache of compiled programs for every test, before jax starts."""

import collections
import contextlib
import gc
import importlib
import importlib.metadata
import os
import tempfile

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    # A program of one part compiles in less processor time than of 32.
    "--xla_cpu_parallel_codegen_split_count": "1",
    # Vectors of half the length or a quarter compile in a tenth less time.
    "--xla_cpu_prefer_vector_width": "128",
}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older of two code generators, gone from later versions, compiles three times as fast.
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Compiling is most of what the tests do. Workers and commands inherit this folder, which goes
    # with the process that made it.
    _CACHE = tempfile.TemporaryDirectory(prefix="thanos_jax_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Half of it is optimization, of programs that run a few times on little data.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# No test reads where in the source an operation of a program stands.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs of a module are of no use to the next; together they fill gigabytes."""
    yield
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def one_device():
    """Runs of the module see one of the eight devices."""
    import jax
    from jax.sharding import AxisType

    from thanos_jax import sharding

    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",), axis_types=(AxisType.Auto,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda: mesh)
        yield


@pytest.fixture(scope="session")
def command_module():
    """Imports a command for a while; other commands' flags of these names are put aside."""
    from absl import flags

    @contextlib.contextmanager
    def importing(module, *names):
        aside = {name: flags.FLAGS[name] for name in names if name in flags.FLAGS}
        for name in aside:
            delattr(flags.FLAGS, name)
        try:
            yield importlib.import_module(module)
        finally:
            for name in names:
                if name in flags.FLAGS:
                    delattr(flags.FLAGS, name)
            for name, flag in aside.items():
                flags.FLAGS[name] = flag

    return importing


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items):
    """Makes all but every k-th case of a test that is marked sampled(k) slow."""
    seen = collections.Counter()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is not None:
            if seen[item.function] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[item.function] += 1


def pytest_collection_finish(session):
    """What is imported by now stays; tracing makes so many objects that collecting took a tenth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def pytest_addoption(parser):
    parser.addoption(
        "--everything",
        action="store_true",
        help="also run the tests of the losses that are left out by default (an hour)",
    )
