"""Makes `oracle` importable and sets jax's strict modes for every loss test."""

import contextlib
import pathlib
import sys

import jax
import pytest

from thanos_jax.losses.pairs import streaming

sys.path.insert(0, str(pathlib.Path(__file__).parent))


# Between them these hold every term of every loss; the others are sums of the same terms.
ALL_TERMS = ("spread", "joint_attract")


def pytest_collection_modifyitems(config, items):
    """Leaves to --everything what is marked so, and streaming's tests of the other losses.

    They compile for long. What streaming makes of those losses is tested by default in
    test_streaming.py and test_table.py.
    """

    def kept(item):
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        loss = getattr(parameters.get("loss"), "name", None)
        streaming = str(parameters.get("implementation")).startswith("streaming")
        if item.get_closest_marker("everything") is not None:
            return False
        return not (streaming and loss in oracle.BY_NAME and loss not in ALL_TERMS)

    if not config.getoption("--everything"):
        import oracle

        config.hook.pytest_deselected(items=[item for item in items if not kept(item)])
        items[:] = [item for item in items if kept(item)]


@pytest.fixture(autouse=True, scope="module")
def strict_with_small_tiles():
    """A caller's training loop may forbid implicit promotion; the losses have to run there too."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        # The dozen entries of most tests then make several tiles, the last with padding.
        stack.enter_context(pytest.MonkeyPatch.context()).setitem(streaming.TILE, "cpu", 8)
        yield
