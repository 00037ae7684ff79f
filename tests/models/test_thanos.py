"""The whole model: what each arrangement returns, and where gradients go."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from thanos_jax.models import ARRANGEMENTS, ENCODERS, MLP, ResNet, Thanos, ViT, build

NUM_CLASSES = 3


def _config(encoder="mlp", arrangement="separate", **changes):
    config = ml_collections.ConfigDict(
        {
            "encoder": encoder,
            "arrangement": arrangement,
            "embedding_dim": 0,
            "decoder": "auto",
            "projection": (),
            "dtype": "float32",
            "vit": {
                "patch": 4, "width": 16, "depth": 2, "heads": 2, "mlp_width": 24,
                "dropout": 0.1, "stochastic_depth": 0.1,
            },
            "resnet": {"width": 4, "stem": "small"},
            "mlp": {"widths": (12, 10)},
            "convnet": {
                "channels": (4, 6), "kernels": (5, 3), "strides": (2, 1), "widths": (12, 9),
            },
        }
    )  # fmt: skip
    config.update(changes)
    return config


def _build(*args, shape=(8, 8, 1), reconstruct=True, **kwargs):
    return build(
        _config(*args, **kwargs),
        image_shape=shape,
        num_classes=NUM_CLASSES,
        reconstruct=reconstruct,
    )


def _images(count=4, shape=(8, 8, 1)):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(count, *shape)).astype(np.float32))


def _shapes(model, shape, train=True):
    def run(key):
        rngs = {"params": key, "dropout": key}
        return model.init_with_output(rngs, jnp.zeros((2, *shape)), train=train)

    return jax.eval_shape(run, jax.random.key(0))


WIDTHS = {"vit": 16, "resnet18": 32, "resnet50": 128, "mlp": 10, "convnet": 9}


SHAPES = {
    "shared": [(8, 8, 1), (64, 64, 3)],
    "joint": [(28, 28, 1)],
    "separate": [(32, 32, 3)],
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_outputs_have_their_shapes_and_are_float32(encoder, arrangement):
    width, encoders = WIDTHS[encoder], ARRANGEMENTS[arrangement]
    for shape in SHAPES[arrangement]:
        dtype = "float32" if shape == (8, 8, 1) else "bfloat16"
        model = _build(encoder, arrangement, dtype=dtype, shape=shape)
        outputs, variables = _shapes(model, shape)
        assert outputs["embedding"].shape == (2, width * encoders)
        assert outputs["contrastive"].shape == (2, width)
        heads = 2 if arrangement == "separate" else 1
        assert [x.shape for x in outputs["logits"]] == [(2, NUM_CLASSES)] * heads
        assert outputs["reconstruction"].shape == (2, *shape)
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((outputs, variables)))


def test_an_imagenet_sized_model():
    config = _config("resnet50", "joint")
    config.resnet.update(width=64, stem="imagenet")
    model = build(config, image_shape=(224, 224, 3), num_classes=2, reconstruct=True)
    outputs, variables = _shapes(model, (224, 224, 3))
    assert outputs["embedding"].shape == (2, 4096)
    assert outputs["reconstruction"].shape == (2, 224, 224, 3)
    for name in ("encoders_0", "encoders_1"):
        size = sum(x.size for x in jax.tree.leaves(variables["params"][name]))
        assert size == 23_508_032


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_outputs_are_what_the_parts_compute(arrangement, fill, apply):
    model, images = _build("mlp", arrangement), _images()
    params = fill(model, images)["params"]
    outputs = apply(model, {"params": params}, images)
    parts = [
        apply(MLP(widths=(12, 10)), {"params": params[f"encoders_{index}"]}, images)
        for index in range(ARRANGEMENTS[arrangement])
    ]
    np.testing.assert_allclose(outputs["embedding"], np.concatenate(parts, axis=1), atol=1e-6)
    np.testing.assert_allclose(outputs["contrastive"], parts[0], atol=1e-6)
    inputs = parts if arrangement == "separate" else [np.concatenate(parts, axis=1)]
    assert len(outputs["logits"]) == len(inputs)
    for index, (logits, features) in enumerate(zip(outputs["logits"], inputs, strict=True)):
        layer = jax.tree.map(np.asarray, params[f"classifier_{index}"])
        expected = np.asarray(features) @ layer["kernel"] + layer["bias"]
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    decoded = apply(model.decoder, {"params": params["decoder"]}, parts[-1])
    np.testing.assert_allclose(outputs["reconstruction"], decoded, atol=1e-5)
    if len(parts) == 2:
        assert not np.allclose(*parts)


LOSSES = {
    "contrastive": lambda outputs: jnp.sin(outputs["contrastive"]).sum(),
    "reconstruction": lambda outputs: jnp.sin(outputs["reconstruction"]).sum(),
    "first_classifier": lambda outputs: jnp.sin(outputs["logits"][0]).sum(),
    "last_classifier": lambda outputs: jnp.sin(outputs["logits"][-1]).sum(),
    "embedding": lambda outputs: jnp.sin(outputs["embedding"]).sum(),
}
BOTH = {"encoders_0", "encoders_1"}
REACHED = {
    ("separate", "contrastive"): {"encoders_0"},
    ("separate", "reconstruction"): {"encoders_1", "decoder"},
    ("separate", "first_classifier"): {"encoders_0", "classifier_0"},
    ("separate", "last_classifier"): {"encoders_1", "classifier_1"},
    ("separate", "embedding"): set(),
    ("joint", "contrastive"): {"encoders_0"},
    ("joint", "reconstruction"): {"encoders_1", "decoder"},
    ("joint", "first_classifier"): BOTH | {"classifier_0"},
    ("joint", "embedding"): BOTH,
    ("shared", "contrastive"): {"encoders_0"},
    ("shared", "reconstruction"): {"encoders_0", "decoder"},
    ("shared", "first_classifier"): {"encoders_0", "classifier_0"},
}


@pytest.mark.parametrize(("arrangement", "loss"), REACHED)
def test_a_loss_reaches_its_own_parameters_and_no_others(arrangement, loss, fill):
    model, images = _build("mlp", arrangement), _images()
    params = fill(model, images)["params"]
    _only_reached(model, {}, params, images, loss, REACHED[arrangement, loss])


@pytest.mark.parametrize("loss", ["contrastive", "last_classifier"])
@pytest.mark.parametrize(
    "encoder",
    [
        ViT(patch=4, width=8, depth=1, heads=1, mlp_width=8, dropout=0.1, stochastic_depth=0.1),
        ResNet((1,), bottleneck=False, width=4),
    ],
    ids=["vit", "resnet"],
)
def test_separate_encoders_share_no_gradient_with_dropout_and_batch_norm(encoder, loss, fill):
    model = Thanos(
        encoders=(encoder.clone(), encoder.clone()),
        decoder=None,
        num_classes=NUM_CLASSES,
        arrangement="separate",
    )
    images = _images()
    variables = fill(model, images)
    params = variables.pop("params")
    _only_reached(model, variables, params, images, loss, REACHED["separate", loss])


def _only_reached(model, state, params, images, loss, expected):
    """Holds that the gradient is exactly zero outside the expected modules, and not in them."""

    @jax.jit
    def gradient(params):
        def run(params):
            outputs, _ = model.apply(
                {"params": params, **state},
                images,
                train=True,
                rngs={"dropout": jax.random.key(1)},
                mutable=list(state),
            )
            return LOSSES[loss](outputs)

        return jax.grad(run)(params)

    sizes = {
        name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(module))
        for name, module in gradient(params).items()
    }
    assert {name for name, size in sizes.items() if size != 0.0} == expected
    assert all(np.isfinite(size) for size in sizes.values())


def test_two_encoders_draw_different_dropout(fill, apply):
    encoder = ViT(patch=4, width=8, depth=1, heads=1, mlp_width=8, dropout=0.2)
    model = Thanos((encoder, encoder.clone()), None, NUM_CLASSES, "joint")
    images = _images(64)
    params = fill(model, images)["params"]
    params = {**params, "encoders_1": params["encoders_0"]}

    def run(train):
        outputs = apply(model, {"params": params}, images, train=train, seed=0)
        return np.split(np.asarray(outputs["embedding"]), 2, axis=1)

    np.testing.assert_allclose(*run(False), atol=1e-6)
    assert not np.allclose(*run(True), atol=1e-3)


def test_embedding_dim_puts_a_linear_layer_after_each_encoder(fill, apply):
    model, images = _build("mlp", "joint", embedding_dim=5), _images()
    variables = fill(model, images)
    outputs = apply(model, variables, images)
    assert outputs["embedding"].shape == (4, 10)
    assert outputs["contrastive"].shape == (4, 5)
    params = variables["params"]
    for index in range(2):
        part = apply(MLP(widths=(12, 10)), {"params": params[f"encoders_{index}"]}, images)
        layer = jax.tree.map(np.asarray, params[f"embedding_{index}"])
        expected = np.asarray(part) @ layer["kernel"] + layer["bias"]
        got = outputs["embedding"][:, 5 * index : 5 * index + 5]
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_without_reconstruction_there_is_no_decoder(arrangement):
    model = _build("mlp", arrangement, reconstruct=False)
    outputs, variables = _shapes(model, (8, 8, 1))
    assert "reconstruction" not in outputs
    assert "decoder" not in variables["params"]


@pytest.mark.parametrize(
    ("encoder", "decoder", "kind"),
    [
        ("mlp", "auto", "MLPDecoder"),
        ("vit", "auto", "ConvDecoder"),
        ("resnet18", "auto", "ConvDecoder"),
        ("convnet", "auto", "ConvNetDecoder"),
        ("mlp", "conv", "ConvDecoder"),
        ("vit", "mlp", "MLPDecoder"),
    ],
)
def test_the_decoder_follows_the_config(encoder, decoder, kind):
    model = _build(encoder, decoder=decoder, dtype="bfloat16", shape=(28, 20, 3))
    assert type(model.decoder).__name__ == kind
    assert tuple(model.decoder.image_shape) == (28, 20, 3)
    assert model.decoder.dtype == model.encoders[0].dtype == model.dtype == jnp.bfloat16


def test_the_mlp_decoder_mirrors_the_encoder():
    model = _build("mlp", shape=(8, 8, 1))
    assert model.encoders[0].widths == (12, 10)
    assert model.decoder.widths == (12,)


def test_the_convnet_decoder_mirrors_the_encoder():
    model = _build("convnet", shape=(8, 8, 1))
    for name in ("channels", "kernels", "strides"):
        assert getattr(model.decoder, name) == getattr(model.encoders[0], name)
    assert model.encoders[0].widths == (12, 9)
    assert model.decoder.widths == (12,)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"encoder": "vgg"},
            "encoder: expected one of .*'vit', 'resnet18', 'resnet50', 'mlp'.*, got 'vgg'",
        ),
        ({"arrangement": "both"}, "arrangement: expected one of .*'shared', 'joint', 'separate'"),
        ({"decoder": "unet"}, "decoder: expected one of .*'conv', 'mlp'.*, got 'unet'"),
        ({"dtype": "float8"}, "dtype: expected one of .*'float32', 'bfloat16'"),
        ({"embedding_dim": -1}, "embedding_dim: expected at least 0, got -1"),
    ],
)
def test_a_config_that_describes_no_model_is_an_error(changes, match):
    with pytest.raises(ValueError, match=match):
        _build(**changes)


def test_sizes_that_describe_no_model_are_errors():
    with pytest.raises(ValueError, match="image_shape: expected"):
        build(_config(), image_shape=(8, 8), num_classes=2, reconstruct=True)
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        build(_config(), image_shape=(8, 8, 1), num_classes=0, reconstruct=True)
    lonely = Thanos(encoders=(MLP(),), decoder=None, num_classes=2, arrangement="joint")
    with pytest.raises(ValueError, match="encoders: expected 2 for arrangement 'joint', got 1"):
        lonely.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)


def test_projection_head_is_between_embedding_and_contrastive_loss_only():
    model = _build(arrangement="shared", projection=(7, 5))
    images = _images()
    variables = model.init(jax.random.key(0), images, train=False)
    outputs = model.apply(variables, images, train=False)
    params = variables["params"]
    hidden = outputs["embedding"] @ params["projection_0"]["kernel"]
    hidden = np.maximum(hidden + params["projection_0"]["bias"][None], 0)
    expected = hidden @ params["projection_1"]["kernel"] + params["projection_1"]["bias"][None]
    np.testing.assert_allclose(outputs["contrastive"], expected, rtol=1e-5, atol=1e-6)
    assert outputs["embedding"].shape == (4, 10)
    without = _build(arrangement="shared")
    rest = {name: value for name, value in params.items() if not name.startswith("projection")}
    plain = without.apply({"params": rest}, images, train=False)
    np.testing.assert_array_equal(plain["embedding"], outputs["embedding"])
    np.testing.assert_array_equal(plain["logits"][0], outputs["logits"][0])
