"""What the losses refuse, in which words, and what importing them costs."""

import inspect
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from thanos_jax import losses

ROWS = pytest.mark.parametrize("loss", oracle.LOSSES, ids=repr)
LABELLED = pytest.mark.parametrize("loss", [row for row in oracle.LOSSES if row.labels], ids=repr)
EMBEDDINGS = oracle.embeddings_like(2, seed=70)
LABELS = oracle.labels_like("random")
NAN = float("nan")

COMMON = {
    "temperature": 0.5,
    "views": "all",
    "where": None,
    "normalize": True,
    "memory_bank": None,
    "axis_name": None,
    "implementation": "auto",
    "reduction": "mean",
}


def refused(loss, *words, embeddings=EMBEDDINGS, labels=LABELS, **keywords):
    """The call raises, and the message has all words; a call under jit does the same."""
    # Strings and invalid arrays are not jit's arguments: they are closed over.
    calls = [lambda: loss.call(losses, embeddings, labels, **keywords)]
    calls.append(jax.jit(calls[0]))
    if isinstance(embeddings, np.ndarray) and isinstance(labels, np.ndarray):
        traced = jax.jit(lambda z, y: loss.call(losses, z, y, **keywords))
        calls.append(lambda: traced(embeddings, labels))
    for call in calls:
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        for word in words:
            assert re.search(word, str(caught.value)), (word, str(caught.value))


def shape(*sizes):
    """A pattern of a shape in a message, in round or square brackets."""
    return r"[(\[]" + ", ".join(map(str, sizes)) + r",?[)\]]"


@ROWS
def test_signature(loss):
    """Names, order and defaults that callers rely on."""
    parameters = inspect.signature(getattr(losses, loss.function)).parameters
    positional = [p.name for p in parameters.values() if p.kind != p.KEYWORD_ONLY]
    assert positional == (["embeddings", "labels"] if loss.labels else ["embeddings"])
    for name, default in COMMON.items():
        assert parameters[name].kind == inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == default, name
    for name, default in (("alpha", 0.5), ("beta", 0.5), ("denominator", "all")):
        assert (name in parameters) == (name in expected_options(loss.function))
        if name in parameters:
            assert parameters[name].default == default


def expected_options(function):
    return {
        "info_nce": (),
        "supcon": ("denominator",),
        "class_conditional_info_nce": (),
        "spread": ("alpha", "denominator"),
        "joint": ("beta", "denominator"),
    }[function]


@ROWS
@pytest.mark.parametrize("bad", [(5,), (), (6, 2, 3, 4)])
def test_rank_of_embeddings(loss, bad):
    refused(loss, "embeddings", shape(*bad), embeddings=np.ones(bad, np.float32))


@ROWS
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "complex64"])
def test_dtype_of_embeddings(loss, dtype):
    refused(loss, "embeddings", dtype, embeddings=np.ones((6, 2, 5), dtype))


@ROWS
@pytest.mark.parametrize("bad", [(6, 0, 5), (6, 2, 0)])
def test_no_views_or_no_dimensions(loss, bad):
    refused(loss, "embeddings", shape(*bad), embeddings=np.ones(bad, np.float32))


@ROWS
def test_empty_batch(loss):
    """Nothing to learn from: refused at the boundary, or the loss of no anchors, 0."""
    embeddings, labels = np.ones((0, 2, 5), np.float32), np.ones(0, np.int32)
    try:
        value = loss.call(losses, embeddings, labels)
    except ValueError as error:
        assert re.search("embeddings.*" + shape(0, 2, 5), str(error))  # noqa: PT017
    else:
        assert value == 0


@ROWS
@pytest.mark.parametrize("embeddings", [EMBEDDINGS[:, :1], EMBEDDINGS[:, 0]], ids=["three", "two"])
def test_second_view(loss, embeddings):
    """One view is an error for the losses with own-view terms, and for all with views="cross"."""
    words = ("embeddings", "(one|1) view", shape(6, 1, 5) + "|" + shape(6, 5))
    refused(loss, *words, embeddings=embeddings, views="cross")
    if loss.own_views:
        refused(loss, *words, embeddings=embeddings)


@LABELLED
@pytest.mark.parametrize("bad", [(7,), (6, 2), (6, 1), (1,), ()])
def test_shape_of_labels(loss, bad):
    refused(loss, "labels", shape(*bad), labels=np.zeros(bad, np.int32))


@LABELLED
@pytest.mark.parametrize("dtype", ["float32", "bool", "bfloat16", "complex64"])
def test_dtype_of_labels(loss, dtype):
    refused(loss, "labels", dtype, labels=np.zeros(6, jnp.dtype(dtype)))


@ROWS
@pytest.mark.parametrize("bad", [(7,), (6, 3), (6, 1), (1,), ()])
def test_shape_of_where(loss, bad):
    refused(loss, "where", shape(*bad), where=np.ones(bad, bool))


@ROWS
@pytest.mark.parametrize("dtype", ["int32", "float32", "uint8"])
def test_dtype_of_where(loss, dtype):
    refused(loss, "where", dtype, where=np.ones(6, dtype))


@ROWS
@pytest.mark.parametrize(
    "bad", [0, 0.0, -1, -0.5, NAN, float("inf"), np.float32(-2), np.float64(0)]
)
def test_temperature(loss, bad):
    refused(loss, "temperature", re.escape(f"{float(bad):g}"), temperature=bad)


@ROWS
@pytest.mark.parametrize("bad", [np.ones(2, np.float32), np.ones((1, 1), np.float32)])
def test_shape_of_temperature(loss, bad):
    refused(loss, "temperature", shape(*bad.shape), temperature=bad)
    refused(loss, "temperature", shape(*bad.shape), temperature=jnp.asarray(bad))


@ROWS
def test_type_of_temperature(loss):
    refused(loss, "temperature", "warm", temperature="warm")
    refused(loss, "temperature", "None", temperature=None)
    refused(loss, "temperature", "complex", temperature=1j)


@pytest.mark.parametrize(("function", "name"), [("spread", "alpha"), ("joint", "beta")])
def test_weights(function, name):
    """Alpha and beta mix two losses: outside 0 to 1 one of them would be repelled."""
    loss = oracle.Loss(function, function, getattr(oracle, function))
    for bad in (-0.1, 1.5, 2, NAN, np.float32(-1)):
        refused(loss, name, re.escape(f"{float(bad):g}"), **{name: bad})
    refused(loss, name, shape(2), **{name: np.full(2, 0.5, np.float32)})
    refused(loss, name, "half", **{name: "half"})


@ROWS
@pytest.mark.parametrize(
    ("name", "bad"),
    [("views", "both"), ("reduction", "sum"), ("implementation", "fast"), ("views", None)],
)
def test_options(loss, name, bad):
    """An unknown option is named together with the ones there are."""
    known = {"views": "cross", "reduction": "none", "implementation": "dense"}
    refused(loss, name, str(bad), known[name], **{name: bad})


@pytest.mark.parametrize("function", ["supcon", "spread", "joint"])
def test_denominator(function):
    loss = oracle.Loss(function, function, getattr(oracle, function))
    refused(loss, "denominator", "positive", "one_positive", denominator="positive")


@ROWS
def test_misspelt_keyword(loss):
    with pytest.raises(TypeError, match="temprature"):
        loss.call(losses, EMBEDDINGS, LABELS, temprature=0.5)


@LABELLED
def test_missing_labels(loss):
    with pytest.raises(TypeError, match="labels"):
        getattr(losses, loss.function)(EMBEDDINGS)


class TestReconstruction:
    IMAGES = np.zeros((4, 3, 3, 1), np.float32)

    @pytest.mark.parametrize("bad", [(4, 3, 3), (4, 3, 3, 2), (3, 3, 3, 1), (4, 3, 3, 1, 1)])
    def test_shapes(self, bad):
        with pytest.raises(ValueError, match="reconstructions") as caught:
            losses.reconstruction(self.IMAGES, np.zeros(bad, np.float32))
        assert re.search(shape(*bad), str(caught.value))
        assert re.search(shape(4, 3, 3, 1), str(caught.value))

    @pytest.mark.parametrize("name", ["images", "reconstructions"])
    @pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
    def test_dtypes(self, name, dtype):
        """uint8 images are not converted silently: whoever scales them knows by how much."""
        arrays = {"images": self.IMAGES, "reconstructions": self.IMAGES}
        arrays[name] = arrays[name].astype(dtype)
        with pytest.raises((TypeError, ValueError), match=name) as caught:
            losses.reconstruction(**arrays)
        assert dtype in str(caught.value)

    def test_where(self):
        for bad in (np.ones(3, bool), np.ones((4, 1), bool), np.ones(4, np.int32)):
            with pytest.raises((TypeError, ValueError), match="where") as caught:
                losses.reconstruction(self.IMAGES, self.IMAGES, where=bad)
            assert re.search(shape(*bad.shape) + "|" + str(bad.dtype), str(caught.value))


def test_importing_costs_jax_only():
    """A user with another training loop pays for jax and nothing else."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import thanos_jax.losses"],
        capture_output=True, text=True, timeout=120, check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert {"thanos_jax", "jax"} <= imported
    unwanted = {
        "flax", "optax", "orbax", "tensorflow_datasets", "tensorflow", "grain", "chex", "sklearn",
        "ml_collections", "absl", "matplotlib", "PIL", "array_record",
    }  # fmt: skip
    assert not imported & unwanted
