"""Random arguments, sensible and not: a promised result, or an error that names what is at fault.

What is drawn is known to be right or wrong, so that nothing wrong may pass. Functions run without
jit on few shapes: compiling would be all that the time goes into. Streaming ones, which run slowly
so, are only traced by default.
"""

import json
import math
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import losses
from thanos_jax.errors import ConfigError

EXAMPLES = [12, pytest.param(500, marks=pytest.mark.slow)]
BATCH, VIEWS, DIM, GROUPS = 4, 2, 3, 3
FLOATS = ("float16", "bfloat16", "float32", "float64")
NAN, INF = math.nan, math.inf


def fuzzed(examples):
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def floats_of(*shape, low=-2.0, high=2.0):
    """Arrays of NumPy or jax of any floating point type; half of the values are 1, low or high."""

    def draw(seed, dtype, make):
        generator = np.random.default_rng(seed)
        numbers = generator.choice([1.0, low, high], shape)
        numbers = np.where(
            generator.random(shape) < 0.5, numbers, generator.uniform(low, high, shape)
        )
        return make(numbers.astype(dtype))

    dtypes = st.sampled_from([jnp.dtype(name) for name in FLOATS])
    return st.builds(draw, st.integers(0, 99), dtypes, st.sampled_from([np.asarray, jnp.asarray]))


def integers_of(size, low, high):
    makers = [list, tuple, lambda x: np.array(x, np.int8), np.array, lambda x: jnp.array(x)]

    def draw(seed, make):
        return make(np.random.default_rng(seed).integers(low, high + 1, size).tolist())

    return st.builds(draw, st.integers(0, 99), st.sampled_from(makers))


def wrong_array(dtype, *shapes):
    """Values of wrong shapes or dtypes, and objects that are no arrays."""
    arrays = [np.ones(shape, dtype) for shape in shapes]
    return st.sampled_from([*arrays, *map(jnp.asarray, arrays), None, "words", {}, object()])


def options(*known):
    return st.sampled_from(known), st.sampled_from(
        ["other", "", None, 0, ["all"], ("mean", "none"), np.array(["all", "dense"]), {}]
    )


def numbers(*known, high=None):
    valid = st.sampled_from([*known, *map(np.float32, known), *map(jnp.float32, known)])
    beyond = [] if high is None else [high + 0.5, np.float32(high + 1)]
    return valid, st.sampled_from(
        [-1, -0.5, NAN, INF, -INF, np.float32(NAN), jnp.float32(-1), "warm", None, 1j, [0.5], {},
         np.ones(1), np.ones((2, 2)), True, *beyond]
    )  # fmt: skip


NOT_INTEGERS = st.sampled_from(
    [np.ones(BATCH), np.ones(BATCH, bool), [0.5] * BATCH, ["a"] * BATCH, [[0], [0, 1], 0, 0], 1,
     np.zeros((BATCH, 1), int), np.zeros(BATCH + 1, int), [0] * (BATCH - 1), [], "word", {},
     np.array([None] * BATCH)]
)  # fmt: skip
WHERE = (
    st.none()
    | st.lists(st.booleans(), min_size=BATCH, max_size=BATCH)
    | st.lists(st.booleans(), min_size=BATCH, max_size=BATCH).map(np.array)
    | st.lists(st.booleans(), min_size=BATCH, max_size=BATCH).map(jnp.array),
    st.sampled_from(
        [np.ones(BATCH), np.ones(BATCH, int), np.ones(BATCH + 1, bool), np.ones((BATCH, 1), bool),
         [1] * BATCH, [True], [[True], [True, False], True, True], [], True, "words", {}]
    ),
)  # fmt: skip
LABELS = (
    integers_of(BATCH, -2, 2),
    NOT_INTEGERS | st.none(),
)
EMBEDDINGS = (
    floats_of(BATCH, VIEWS, DIM),
    wrong_array("float32", (BATCH,), (), (0, 2, 3), (4, 0, 3), (4, 2, 0), (4, 2, 3, 1))
    | wrong_array("int32", (BATCH, VIEWS, DIM)),
)
SHARED = {
    "temperature": numbers(0.05, 0.5, 1, 100),
    "where": WHERE,
    "normalize": (st.booleans() | st.just(np.True_), st.sampled_from(["no", None, 2, [True], {}])),
    "implementation": options("auto", "dense", "streaming"),
    "reduction": options("mean", "none"),
}
CONTRASTIVE = {
    "embeddings": EMBEDDINGS,
    **SHARED,
    "views": options("all", "cross"),
    "memory_bank": (st.none(), st.sampled_from(["bank", 3, {}, np.ones((2, 3)), ()])),
}
WEIGHT = numbers(0, 0.3, 1, high=1)
DENOMINATOR = options("all", "one_positive")
VALUES = (floats_of(BATCH), wrong_array("float32", (0,), (4, 1)) | wrong_array("int32", (BATCH,)))
OF_GROUPS = (
    floats_of(GROUPS, low=0.25),
    wrong_array("float32", (0,), (3, 1)) | st.just(np.array([1.0, -1.0, 1.0], np.float32)),
)
SIZES = (
    integers_of(GROUPS, 0, 9),
    wrong_array("int32", (2,), (3, 1)).filter(lambda x: x is not None)
    | st.sampled_from([[1, 2, -3], [1, 2, NAN]]),
)
STEPS = {
    "step_size": numbers(0, 0.01, 1),
    "adjustment": numbers(0, 0.5, 2),
    "group_sizes": SIZES,
}
GROUP = (integers_of(BATCH, 0, GROUPS - 1), NOT_INTEGERS | st.just([0, 1, 2, 3]) | st.none())
CLASSES = wrong_array("float32", (4,), (4, 1), (0, 3)) | wrong_array("int32", (BATCH, GROUPS))
LOGITS = (floats_of(BATCH, GROUPS), CLASSES)
# A row of ones has the loss log 0, and is none of what `update_targets` returns.
TARGETS = (floats_of(BATCH, GROUPS, low=0.0, high=1.0 / GROUPS).map(lambda x: x / 1.5), CLASSES)

# Function -> its arguments: name -> (right ones, wrong ones).
FUNCTIONS = {
    "info_nce": CONTRASTIVE,
    "supcon": {**CONTRASTIVE, "labels": LABELS, "denominator": DENOMINATOR},
    "class_conditional_info_nce": {**CONTRASTIVE, "labels": LABELS},
    "spread": {
        **CONTRASTIVE, "labels": LABELS, "alpha": WEIGHT, "denominator": DENOMINATOR,
    },
    "joint": {
        **CONTRASTIVE, "labels": LABELS, "beta": WEIGHT, "denominator": DENOMINATOR,
    },
    "cross_modal": {
        "image": (st.just(np.eye(BATCH, DIM, dtype=np.float32)), EMBEDDINGS[1]),
        "text": (
            floats_of(BATCH, DIM).map(lambda x: jnp.asarray(x, "float32")),
            EMBEDDINGS[1] | wrong_array("float16", (BATCH, DIM)) | wrong_array("float32", (5, 3)),
        ),
        **SHARED, "labels": (LABELS[0], NOT_INTEGERS), "alpha": WEIGHT, "denominator": DENOMINATOR,
    },
    "robust.group_means": {
        "values": VALUES,
        "groups": GROUP,
        "num_groups": (st.just(GROUPS), st.sampled_from([0, -1, 2.0, None, "three", True, [3]])),
        "where": WHERE,
    },
    "robust.group_dro_weights": {
        "weights": (
            OF_GROUPS[0],
            OF_GROUPS[1] | st.just(np.zeros(GROUPS, np.float32)),
        ),
        "group_losses": (
            floats_of(GROUPS),
            wrong_array("float32", (2,), (3, 1)) | wrong_array("int32", (3,)),
        ),
        "counts": (integers_of(GROUPS, 0, 4), wrong_array("int32", (2,), (3, 1))),
        **STEPS,
    },
    "robust.group_dro": {
        "values": VALUES, "groups": GROUP, "weights": OF_GROUPS, **STEPS, "where": WHERE,
    },
    "robust.weighted_mean": {
        "values": VALUES,
        "sample_weights": (
            floats_of(BATCH, low=0.0) | integers_of(BATCH, 0, 5),
            wrong_array("float32", (5,), (4, 1), ()) | st.just([1, 1, 1, -1]),
        ),
        "where": WHERE,
    },
    "robust.early_learning_regularization": {"logits": LOGITS, "targets": TARGETS, "where": WHERE},
    "robust.update_targets": {"targets": TARGETS, "logits": LOGITS, "momentum": WEIGHT},
    "robust.small_loss_selection": {"values": VALUES, "keep_rate": WEIGHT, "where": WHERE},
}  # fmt: skip
SHAPES = {
    "robust.group_means": ((GROUPS,), (GROUPS,)),
    "robust.group_dro_weights": (GROUPS,),
    "robust.group_dro": ((), (GROUPS,)),
    "robust.weighted_mean": (),
    "robust.early_learning_regularization": (),
    "robust.update_targets": (BATCH, GROUPS),
    "robust.small_loss_selection": (BATCH,),
}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_losses_return_what_they_promise_or_name_what_is_wrong(name, examples):
    function = losses
    for part in name.split("."):
        function = getattr(function, part)
    arguments = FUNCTIONS[name]
    found = {"returned": 0, "raised": 0}

    @fuzzed(examples)
    @hypothesis.given(st.data())
    def check(data):
        wrong = data.draw(st.sets(st.sampled_from(sorted(arguments)), max_size=2), label="wrong")
        given = {
            argument: data.draw(strategies[argument in wrong], label=argument)
            for argument, strategies in arguments.items()
        }
        if "views" in arguments and not wrong and data.draw(st.booleans(), label="one view"):
            given["embeddings"] = given["embeddings"][:, 0]
            if name != "supcon" or given["views"] == "cross":
                wrong = {"embeddings"}
        traced = examples < 500 and str(given.get("implementation")) == "streaming"
        result, message = None, None
        try:
            result = jax.eval_shape(lambda: function(**given)) if traced else function(**given)
        except (TypeError, ValueError) as error:
            message = str(error)
        if message is not None:
            assert wrong, f"nothing was wrong, but: {message}"
            assert any(re.search(rf"\b{one}\b", message) for one in wrong), (wrong, message)
            found["raised"] += 1
            return
        assert not wrong, f"{wrong} passed: {result}"
        found["returned"] += 1
        if name in SHAPES:
            shapes = SHAPES[name]
        elif given["reduction"] == "mean":
            shapes = ()
        else:
            one_view = getattr(given.get("embeddings"), "ndim", 3) == 2
            shapes = (BATCH, 1 if one_view else VIEWS)
        many = isinstance(result, tuple)
        for array, shape in zip(result, shapes, strict=True) if many else [(result, shapes)]:
            assert array.shape == shape
            assert array.dtype in (jnp.float32, jnp.int32, bool)
            assert traced or np.isfinite(np.asarray(array)).all()

    if examples < 500:
        check()
    else:
        with jax.disable_jit():
            check()
    # Neither kind may be rare.
    assert min(found.values()) > examples / 10, found


def near(key):
    """A key, or one that is misspelt."""
    return st.sampled_from([key, key, key, key, key[:-1], key + "s", key.upper(), key + ".x"])


KEYS = st.sampled_from([*schema.FIELDS, "data", "model.vit", "train"]).flatmap(near)
WORDS = sorted({word for field in schema.FIELDS.values() for word in field.expected.split(", ")})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**300, 0.5, 1e-9, 1e12, 1e300, NAN, INF, -INF]),
    st.floats(-2, 2),
    st.sampled_from(["", "auto", "all", "vit", "ce", "cifar10", "skip", "no", *WORDS]),
    st.text(max_size=4),
)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=4).map(tuple) | st.lists(SCALARS, max_size=2)
ANYTHING |= st.sampled_from([(10**400,), (0.1, 10**400), (0, 0, 0, -(10**400))])
ANYTHING |= st.dictionaries(st.sampled_from(["x", "name"]), SCALARS, min_size=1, max_size=2)


# What ml_collections lets pass for a key of each type.
OF_TYPE = {
    bool: st.booleans(),
    int: st.integers(-3, 300) | st.sampled_from([2**31, 2**63, 10**300]),
    float: st.floats() | st.integers(-3, 300),
    str: st.sampled_from(WORDS) | st.text(max_size=4),
    tuple: st.lists(SCALARS | st.floats(0, 1) | st.integers(0, 9), max_size=4).map(tuple),
}


def assigned(config, key, value):
    """Sets a key; returns what ml_collections has against it."""
    *sections, name = key.split(".")
    try:
        for section in sections:
            config = config[section]
        config[name] = value
    except (TypeError, KeyError, AttributeError) as error:
        below = None if isinstance(config, ml_collections.ConfigDict) else key
        return f"{error} {below}"  # a key below one that is no section: the flags name it
    return None


@pytest.mark.parametrize("examples", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_overrides_are_accepted_or_their_key_is_named(examples):
    fuzzed(examples)(hypothesis.given(st.data())(accepted_or_named))()


def accepted_or_named(data):
    key = data.draw(KEYS, label="key")
    usual = schema.FIELDS[key].default if key in schema.FIELDS else 1
    value = data.draw(ANYTHING | st.just(usual) | OF_TYPE[type(usual)], label="value")
    config = schema.default()
    refused = assigned(config, key, value)
    if refused:
        # As flags and config files meet it, before the schema is asked. The schema refuses it too.
        assert any(re.search(rf"\b{part}\b", refused) for part in key.split(".")), refused
        config = schema.default().unlock()
        with config.ignore_type():
            if assigned(config, key, value):  # below a key that is no section
                assert key not in schema.FIELDS
                return
    message = None
    try:
        schema.check(config)
    except ConfigError as error:
        message = str(error)
    assert message or not refused or isinstance(value, list)
    if message:
        # Perhaps beside another key, whose value does not go with it.
        assert message.startswith("config.")
        assert key in message
        return
    assert key in schema.FIELDS
    # What is accepted can be written and compared.
    flat = schema.flatten(json.loads(json.dumps(config.to_dict())))
    assert flat[key] == (list(value) if isinstance(value, tuple) else value)
