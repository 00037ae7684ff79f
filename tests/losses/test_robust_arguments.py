"""What the robust losses refuse, and what not."""

import inspect
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax import losses
from thanos_jax.losses import robust

VALUES, ROWS = np.ones(4, np.float32), np.full((4, 3), 0.3, np.float32)
GOOD = {
    "group_means": {"values": VALUES, "groups": np.zeros(4, np.int32), "num_groups": 2},
    "group_dro_weights": {
        "weights": np.ones(2, np.float32), "group_losses": np.ones(2, np.float32),
        "counts": np.ones(2, np.int32),
    },
    "group_dro": {
        "values": VALUES, "groups": np.zeros(4, np.int32), "weights": np.ones(2, np.float32)
    },
    "weighted_mean": {"values": VALUES, "sample_weights": VALUES},
    "early_learning_regularization": {"logits": ROWS, "targets": ROWS},
    "update_targets": {"targets": ROWS, "logits": ROWS},
    "small_loss_selection": {"values": VALUES, "keep_rate": 0.5},
}  # fmt: skip
TAKES_VALUES = ("group_means", "group_dro", "weighted_mean", "small_loss_selection")
TAKES_LOGITS = ("early_learning_regularization", "update_targets")


def refusals():
    for name in TAKES_VALUES:
        yield name, {"values": np.ones(4, np.int32)}, TypeError, r"^values.*float.*int32\[4\]"
        yield name, {"values": [1.0, 2.0]}, TypeError, r"^values.*float.*list \[1.0"
        yield name, {"values": ROWS}, ValueError, r"^values.*\[batch\].*float32\[4, 3\]"
        yield name, {"values": VALUES[:0]}, ValueError, r"^values.*non-empty.*float32\[0\]"
    for name in (*TAKES_VALUES, "early_learning_regularization"):
        yield name, {"where": np.ones(3, bool)}, ValueError, r"^where.*\[4\].*bool\[3\]"
        yield name, {"where": np.ones(4, np.int32)}, TypeError, r"^where.*bool.*int32\[4\]"
    for name in ("group_means", "group_dro"):
        yield name, {"groups": VALUES}, TypeError, r"^groups.*integer.*batch=4.*float32\[4\]"
        yield name, {"groups": [0, 1, 0]}, ValueError, r"^groups.*batch=4.*int64\[3\]"
        yield name, {"groups": np.array([0, 1, 2, 0])}, ValueError, "^groups.*0 to 1.*from 0 to 2"
        yield (
            name,
            {"groups": jnp.array([0, 1, 0, -3])},
            ValueError,
            "^groups.*0 to 1.*from -3 to 1",
        )
        yield name, {"groups": np.array([0, 1, 0, 2**32])}, ValueError, "^groups.*to 4294967296"
    yield "group_means", {"num_groups": 0}, ValueError, "^num_groups.*positive.*0"
    yield "group_means", {"num_groups": 2.0}, TypeError, "^num_groups.*integer.*2.0"
    yield "group_means", {"num_groups": True}, TypeError, "^num_groups.*integer.*True"
    for name in ("group_dro_weights", "group_dro"):
        two = np.ones(2, np.float32)
        yield name, {"weights": two.astype(int)}, TypeError, r"^weights.*float.*int64\[2\]"
        yield name, {"weights": two[None]}, ValueError, r"^weights.*\[num_groups\].*float32\[1, 2\]"
        yield name, {"weights": two[:0]}, ValueError, r"^weights.*float32\[0\]"
        yield name, {"weights": two * [1, -0.5]}, ValueError, r"^weights.*negative.*\[2\].*-0.5"
        yield name, {"weights": two * np.nan}, ValueError, "^weights.*finite.*nan"
        yield name, {"weights": two * 0}, ValueError, r"^weights.*positive.*float32\[2\]"
        for scalar in ("step_size", "adjustment"):
            yield name, {scalar: -0.1}, ValueError, f"^{scalar}.*negative.*-0.1"
            yield name, {scalar: np.inf}, ValueError, f"^{scalar}.*finite.*inf"
            yield name, {scalar: two}, ValueError, rf"^{scalar}.*scalar.*float32\[2\]"
            yield name, {scalar: "large"}, TypeError, f"^{scalar}.*number.*large"
        yield name, {"adjustment": 2.0}, ValueError, r"^group_sizes.*training.*num_groups=2.*None"
        yield name, {"group_sizes": [1, 2, 3]}, ValueError, r"^group_sizes.*=2\].*int64\[3\]"
        yield name, {"group_sizes": [1, -2]}, ValueError, r"^group_sizes.*negative.*\[ *1 -2\]"
        yield name, {"group_sizes": "many"}, TypeError, "^group_sizes.*integer"
    name = "group_dro_weights"
    yield name, {"group_losses": VALUES}, ValueError, r"^group_losses.*num_groups=2.*float32\[4\]"
    yield name, {"group_losses": np.ones(2, int)}, TypeError, r"^group_losses.*float.*int64\[2\]"
    yield name, {"counts": np.ones(4, int)}, ValueError, r"^counts.*num_groups=2.*int64\[4\]"
    yield name, {"counts": np.ones(2, bool)}, TypeError, r"^counts.*integer.*bool\[2\]"
    name = "weighted_mean"
    yield (
        name,
        {"sample_weights": VALUES[:3]},
        ValueError,
        r"^sample_weights.*batch=4.*float32\[3\]",
    )
    yield name, {"sample_weights": VALUES > 0}, TypeError, r"^sample_weights.*integer.*bool\[4\]"
    yield name, {"sample_weights": -VALUES}, ValueError, "^sample_weights.*negative.*-1"
    for name in TAKES_LOGITS:
        yield name, {"logits": ROWS.astype(int)}, TypeError, r"^logits.*float.*int64\[4, 3\]"
        yield name, {"targets": np.zeros(4, int)}, TypeError, r"^targets.*float.*int64\[4\]"
        yield name, {"targets": ROWS[:, :2]}, ValueError, r"^targets.*\[4, 3\].*float32\[4, 2\]"
        yield name, {"logits": VALUES}, ValueError, r"^logits.*\[batch, classes\].*float32\[4\]"
        yield name, {"logits": ROWS[:, :1]}, ValueError, r"^logits.*two classes.*float32\[4, 1\]"
        yield name, {"logits": ROWS[:0]}, ValueError, r"^logits.*non-empty.*float32\[0, 3\]"
    yield "update_targets", {"momentum": 1.5}, ValueError, r"^momentum.*\[0, 1\].*1.5"
    yield "small_loss_selection", {"keep_rate": -0.5}, ValueError, r"^keep_rate.*\[0, 1\].*-0.5"
    yield "small_loss_selection", {"keep_rate": None}, TypeError, "^keep_rate.*None"


@pytest.mark.parametrize(("name", "change", "error", "words"), list(refusals()))
def test_refused(name, change, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        getattr(robust, name)(**GOOD[name] | change)


def test_traced_adjustment_needs_sizes():
    def call(adjustment):
        return robust.group_dro_weights(**GOOD["group_dro_weights"], adjustment=adjustment)

    with pytest.raises(ValueError, match=r"^group_sizes.*None"):
        jax.jit(call)(0.0)


@pytest.mark.parametrize("name", GOOD)
def test_what_is_not_refused(name):
    """The arguments that refusals change one at a time are fine themselves."""
    chex.assert_tree_all_finite(getattr(robust, name)(**GOOD[name]))


def test_signatures():
    """Names, order and defaults that callers rely on."""
    shared = {"where": None, "axis_name": None}
    step = {"step_size": 0.01, "adjustment": 0.0, "group_sizes": None}
    expected = {
        "group_means": (["values", "groups", "num_groups"], shared),
        "group_dro_weights": (["weights", "group_losses", "counts"], step),
        "group_dro": (["values", "groups", "weights"], step | shared),
        "weighted_mean": (["values", "sample_weights"], shared),
        "early_learning_regularization": (["logits", "targets"], shared),
        "update_targets": (["targets", "logits", "momentum"], {}),
        "small_loss_selection": (["values", "keep_rate"], shared),
    }
    assert sorted(expected) == sorted(robust.__all__)
    assert losses.robust is robust
    for name, (positional, keywords) in expected.items():
        parameters = inspect.signature(getattr(robust, name)).parameters.values()
        assert [p.name for p in parameters if p.kind != p.KEYWORD_ONLY] == positional
        assert {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY} == keywords
    assert inspect.signature(robust.update_targets).parameters["momentum"].default == 0.7
