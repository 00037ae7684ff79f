"""Weights from files: torchvision's network in NumPy, names, shapes, file formats, the wiring."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax import resume, sharding
from thanos_jax import run as run_module
from thanos_jax.data import sources
from thanos_jax.errors import ConfigError, UserError
from thanos_jax.models import ResNet, pretrained, resnet18, resnet50, thanos
from thanos_jax.tasks import groups as groups_task
from thanos_jax.tasks import stages, transfer
from thanos_jax.train import state as train_state
from thanos_jax.train.build import build

# torchvision's networks: blocks of each stage, and whether they are bottlenecks.
NETWORKS = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}


def state_dict(stages, bottleneck, *, width=4, channels=3, kernel=7, seed=0):
    """Random tensors under the names and in the shapes of torchvision's ResNet, in its order."""
    rng = np.random.default_rng(seed)
    tensors = {}

    def convolution(name, outputs, inputs, kernel):
        scale = np.sqrt(2 / (inputs * kernel**2))
        drawn = scale * rng.normal(size=(outputs, inputs, kernel, kernel))
        tensors[f"{name}.weight"] = drawn.astype(np.float32)

    def norm(name, size):
        for part, values in (
            ("weight", rng.uniform(0.5, 1.5, size)),
            ("bias", 0.2 * rng.normal(size=size)),
            ("running_mean", 0.2 * rng.normal(size=size)),
            ("running_var", rng.uniform(0.5, 1.5, size)),
        ):
            tensors[f"{name}.{part}"] = values.astype(np.float32)
        tensors[f"{name}.num_batches_tracked"] = np.array(7, np.int64)

    convolution("conv1", width, channels, kernel)
    norm("bn1", width)
    expansion = 4 if bottleneck else 1
    inplanes = width
    for layer, blocks in enumerate(stages, start=1):
        planes = width * 2 ** (layer - 1)
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            sizes = (
                [(planes, inplanes, 1), (planes, planes, 3), (planes * 4, planes, 1)]
                if bottleneck
                else [(planes, inplanes, 3), (planes, planes, 3)]
            )
            for number, size in enumerate(sizes, start=1):
                convolution(f"{name}.conv{number}", *size)
                norm(f"{name}.bn{number}", size[0])
            if block == 0 and (layer > 1 or inplanes != planes * expansion):
                convolution(f"{name}.downsample.0", planes * expansion, inplanes, 1)
                norm(f"{name}.downsample.1", planes * expansion)
            inplanes = planes * expansion
    tensors["fc.weight"] = rng.normal(size=(1000, inplanes)).astype(np.float32)
    tensors["fc.bias"] = rng.normal(size=1000).astype(np.float32)
    return tensors


def windows(images, size, stride, padding, value):
    padded = np.pad(images, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), constant_values=value)
    every = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    return every[:, :, ::stride, ::stride]


def reference(tensors, stages, bottleneck, images):
    """torchvision's ResNet in evaluation, up to the pooled features; NCHW, float64."""
    values = {name: array.astype(np.float64) for name, array in tensors.items()}

    def convolution(x, name, stride, padding):
        kernel = values[f"{name}.weight"]
        seen = windows(x, kernel.shape[-1], stride, padding, 0.0)
        return np.einsum("nchwij,ocij->nohw", seen, kernel, optimize=True)

    def norm(x, name):
        weight, bias, mean, var = (
            values[f"{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def relu(x):
        return np.maximum(x, 0)

    x = relu(norm(convolution(images, "conv1", 2, 3), "bn1"))
    x = windows(x, 3, 2, 1, -np.inf).max(axis=(4, 5))
    for layer, blocks in enumerate(stages, start=1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            if bottleneck:
                out = relu(norm(convolution(x, f"{name}.conv1", 1, 0), f"{name}.bn1"))
                out = relu(norm(convolution(out, f"{name}.conv2", stride, 1), f"{name}.bn2"))
                out = norm(convolution(out, f"{name}.conv3", 1, 0), f"{name}.bn3")
            else:
                out = relu(norm(convolution(x, f"{name}.conv1", stride, 1), f"{name}.bn1"))
                out = norm(convolution(out, f"{name}.conv2", 1, 1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in values:
                x = norm(convolution(x, f"{name}.downsample.0", stride, 0), f"{name}.downsample.1")
            x = relu(out + x)
    return x.mean(axis=(2, 3))


def write_safetensors(path, tensors, names=None, *, metadata=True):
    """The format by its description; `names` has the dtypes for which NumPy has no code."""
    codes = {
        "f4": "F32",
        "f2": "F16",
        "f8": "F64",
        "i8": "I64",
        "i4": "I32",
        "u1": "U8",
        "b1": "BOOL",
    }
    header = {"__metadata__": {"format": "pt"}} if metadata else {}
    data = b""
    for name, array in tensors.items():
        code = (names or {}).get(name) or codes[array.dtype.str[1:]]
        begin, data = len(data), data + array.tobytes()
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def tiny(**settings):
    return ResNet((1, 1), bottleneck=False, **({"width": 4, "stem": "imagenet"} | settings))


def tiny_tensors(**settings):
    return state_dict((1, 1), False, **settings)


def equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_sizes_are_torchvisions(name):
    """Of its published networks: the number of parameters, and of tensors in the dictionary."""
    tensors = state_dict(*NETWORKS[name], width=64)
    averages = ("running_mean", "running_var", "num_batches_tracked")
    count = sum(x.size for key, x in tensors.items() if not key.endswith(averages))
    expected = {"resnet18": (11_689_512, 122), "resnet50": (25_557_032, 320)}
    assert (count, len(tensors)) == expected[name]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("resnet18", resnet18(width=4, stem="imagenet")),
        ("resnet50", resnet50(width=4, stem="imagenet")),
    ],
)
def test_features_are_those_of_torchvision(name, model, tmp_path, apply):
    tensors = state_dict(*NETWORKS[name])
    path = write_safetensors(tmp_path / "weights.safetensors", tensors)
    images = np.random.default_rng(1).normal(size=(2, 48, 32, 3))
    variables = pretrained.load(path, model, (48, 32, 3))
    got = apply(model, variables, jnp.asarray(images, jnp.float32))
    expected = reference(tensors, *NETWORKS[name], images.transpose(0, 3, 1, 2))
    # Images differ in most features; the last ReLU silences some.
    assert np.mean(expected.std(axis=0) > 1e-3 * np.abs(expected).max()) > 0.5
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("height", "width"), [(21, 30), (18, 35)])
def test_odd_sizes_are_padded_as_torchvisions(height, width, tmp_path, apply):
    """In both kinds of block, without a deep network's compile time."""
    images = np.random.default_rng(2).normal(size=(2, height, width, 3))
    for bottleneck in (False, True):
        model = ResNet((1, 2), bottleneck=bottleneck, width=4, stem="imagenet")
        tensors = state_dict((1, 2), bottleneck, seed=3)
        path = tmp_path / "weights.npz"
        np.savez(path, **tensors)
        variables = pretrained.load(path, model, (height, width, 3))
        got = apply(model, variables, jnp.asarray(images, jnp.float32))
        expected = reference(tensors, (1, 2), bottleneck, images.transpose(0, 3, 1, 2))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_installed_torchvision(name, tmp_path, apply):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = getattr(models, name)(weights=None)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    path = write_safetensors(tmp_path / "weights.safetensors", tensors)
    network.fc = torch.nn.Identity()
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    model = {"resnet18": resnet18, "resnet50": resnet50}[name](stem="imagenet")
    got = apply(model, pretrained.load(path, model, (64, 64, 3)), jnp.asarray(images))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_variable_gets_its_tensor(name):
    """At full width; one that is not in the file, or is read twice, would leave one over."""
    model = {"resnet18": resnet18, "resnet50": resnet50}[name](stem="imagenet")
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False), jax.random.key(0)
    )
    tensors = state_dict(*NETWORKS[name], width=64)
    found = pretrained.from_torchvision(tensors, dict(shapes))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), dict(shapes)
    )
    left = {key: float(np.sum(x, dtype=np.float64)) for key, x in tensors.items()
            if not key.startswith("fc.") and not key.endswith("num_batches_tracked")}  # fmt: skip
    sums = [float(np.sum(x, dtype=np.float64)) for x in jax.tree.leaves(found)]
    np.testing.assert_allclose(sorted(sums), sorted(left.values()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_other_floating_numbers_become_float32(dtype, tmp_path):
    kinds = {"F16": np.float16, "BF16": jnp.bfloat16, "F64": np.float64}
    tensors = {k: v.astype(kinds[dtype]) for k, v in tiny_tensors().items()}
    path = write_safetensors(
        tmp_path / "w.safetensors", tensors, dict.fromkeys(tensors, dtype), metadata=False
    )
    found = pretrained.load(path, tiny(), (16, 16, 3))
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(found))
    expected = tensors["conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(found["params"]["stem"]["kernel"], expected)


def test_safetensors_reads_every_type_of_number(tmp_path):
    tensors = {
        "a": np.array([[1.5, -2.0, 3.0]], np.float32),
        "b": np.array(True),
        "c": np.array([1, 255], np.uint8),
        "d": np.arange(-3, 3, dtype=np.int64).reshape(2, 3),
        "e": np.zeros((0, 4), np.float16),
        "f": np.array([0.1, -7.25], jnp.bfloat16),
        "g": np.array([np.pi]),
        "h": np.array([-5], np.int32),
        "i": np.array([0.5, -448.0], jnp.float8_e4m3fn),
    }
    names = {"b": "BOOL", "f": "BF16", "i": "F8_E4M3"}
    found = pretrained.read(write_safetensors(tmp_path / "t.safetensors", tensors, names))
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_own_files_come_back_bit_for_bit(tmp_path, fill):
    model = tiny()
    variables = fill(model, jnp.zeros((1, 16, 16, 3)))
    variables["params"]["stem_norm"]["bias"] = jnp.full(4, -0.0)
    path = tmp_path / "encoder.npz"
    path.write_text("replaced")
    pretrained.save_npz(path, variables["params"], variables["batch_stats"])
    found = pretrained.load(path, model, (16, 16, 3))
    assert jax.tree.structure(found) == jax.tree.structure(dict(variables))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(dict(variables)), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == np.asarray(theirs).tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.npz"]


def test_own_files_of_another_network_are_refused(tmp_path, fill):
    variables = fill(tiny(), jnp.zeros((1, 16, 16, 3)))
    path = tmp_path / "encoder.npz"
    pretrained.save_npz(path, variables["params"], variables["batch_stats"])
    with pytest.raises(
        pretrained.WeightsError, match=r"norm_0/mean: expected float32 \[8\], got .*\[4\]"
    ):
        pretrained.load(path, tiny(width=8), (16, 16, 3))
    pretrained.save_npz(path, variables["params"], {})
    with pytest.raises(pretrained.WeightsError, match=r"batch_stats/.* is missing, one of 12"):
        pretrained.load(path, tiny(), (16, 16, 3))
    bad = jax.tree.map(lambda x: x + jnp.nan, variables["params"])
    pretrained.save_npz(path, bad, variables["batch_stats"])
    with pytest.raises(pretrained.WeightsError, match=r"params/.*: has values that are not finite"):
        pretrained.load(path, tiny(), (16, 16, 3))


@pytest.mark.parametrize(
    ("place", "params", "words"),
    [
        ("encoder.safetensors", {}, "expected a name that ends in .npz"),
        ("absent/encoder.npz", {"a": np.zeros(1)}, "cannot be written: No such file"),
        ("e.npz", {"a": jnp.zeros(1, jnp.bfloat16)}, "params/a: expected an array of NumPy's own"),
    ],
)
def test_what_cannot_be_saved_is_named(place, params, words, tmp_path):
    with pytest.raises(pretrained.WeightsError, match=words):
        pretrained.save_npz(tmp_path / place, params, {})
    assert not list(tmp_path.iterdir())


def without(name):
    def change(tensors):
        del tensors[name]

    return change


def with_(name, make):
    def change(tensors):
        tensors[name] = make(tensors.get(name))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("layer1.0.bn2.running_var"), r"layer1\.0\.bn2\.running_var is missing, one of 1;"),
        (lambda t: t.clear(), r"conv1\.weight is missing, one of 30; there are 0 tensors: "),
        (
            with_("layer1.1.conv1.weight", lambda _: np.zeros(1)),
            r"unexpected layer1\.1\.conv1\.weight, one of 1 that .*config\.model\.encoder",
        ),
        (
            with_("layer2.0.conv1.weight", lambda x: x.transpose(2, 3, 1, 0)),
            r"layer2\.0\.conv1\.weight: expected shape \[8, 4, 3, 3\], got \[3, 3, 4, 8\]$",
        ),
        (
            with_("bn1.bias", lambda x: x[:, None]),
            r"bn1\.bias: expected shape \[4\], got \[4, 1\]$",
        ),
        (
            with_("bn1.weight", lambda x: x.astype(np.int64)),
            r"bn1\.weight: expected float16, bfloat16, float32 or float64, got int64",
        ),
        (
            with_("bn1.weight", lambda x: np.full(4, np.nan, np.float32)),
            r"bn1\.weight: has values that are not finite",
        ),
        (
            with_("bn1.weight", lambda x: np.full(4, 1e300)),
            r"bn1\.weight: has values that are not finite in float32",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, words, tmp_path):
    tensors = tiny_tensors()
    change(tensors)
    path = write_safetensors(tmp_path / "w.safetensors", tensors)
    with pytest.raises(UserError, match=words) as caught:
        pretrained.load(path, tiny(), (16, 16, 3))
    assert str(caught.value).startswith(f"config.model.weights: {path}: ")


@pytest.mark.parametrize(
    ("file", "model", "channels", "words"),
    [
        ({}, {"stem": "small"}, 3, r"\[4, 3, 3, 3\], got \[4, 3, 7, 7\]; .*stem='imagenet'"),
        ({"kernel": 3}, {}, 3, r"\[4, 3, 7, 7\], got \[4, 3, 3, 3\]; .*resnet\.stem='small'"),
        ({}, {"width": 8}, 3, r"\[8, 3, 7, 7\], got \[4, 3, 7, 7\]; .*resnet\.width=4"),
        ({}, {}, 1, r"got \[4, 3, 7, 7\]; it is for images of 3 channels, but these have 1, "),
    ],
)
def test_a_first_layer_that_does_not_fit_says_what_to_change(
    file, model, channels, words, tmp_path
):
    path = write_safetensors(tmp_path / "w.safetensors", tiny_tensors(**file))
    with pytest.raises(pretrained.WeightsError, match=rf"conv1\.weight: expected shape .*{words}"):
        pretrained.load(path, tiny(**model), (16, 16, channels))


def test_weights_of_another_depth_are_refused(tmp_path):
    path = write_safetensors(tmp_path / "w.safetensors", state_dict(*NETWORKS["resnet50"]))
    with pytest.raises(pretrained.WeightsError, match=r"unexpected layer1\.0\.bn3\.bias, one of "):
        pretrained.load(path, resnet18(width=4, stem="imagenet"), (32, 32, 3))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickles_are_refused_with_the_way_to_convert_them(suffix, tmp_path):
    path = tmp_path / f"resnet50{suffix}"
    path.write_bytes(b"never opened")
    with pytest.raises(pretrained.WeightsError, match="is a pickle, which can run code") as caught:
        pretrained.read(path)
    *_, first, second = str(caught.value).splitlines()
    compile(f"{first.strip()}\n{second.strip()}", "snippet", "exec")
    assert "weights_only=True" in second
    assert str(path.with_suffix(".safetensors")) in second


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.h5", b"", r"expected a file that ends in \.safetensors or \.npz, got .*w\.h5"),
        ("w.safetensors", None, r"there is no file .*w\.safetensors"),
        ("w.npz", None, r"there is no file .*w\.npz"),
        ("w.npz", b"no archive", r"w\.npz: expected a \.npz file of arrays of numbers"),
        ("w.npz", b"", r"w\.npz: expected a \.npz file of arrays of numbers"),
    ],
)
def test_files_of_another_kind_are_refused(name, content, words, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(pretrained.WeightsError, match=words):
        pretrained.read(path)


def test_npz_files_with_objects_or_damage_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(pretrained.WeightsError, match=r"w\.npz: expected .*allow_pickle"):
        pretrained.read(path)
    np.savez(path, a=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(pretrained.WeightsError, match=r"expected a \.npz .*Bad CRC"):
        pretrained.read(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(pretrained.WeightsError, match=r"w\.npz: expected a \.npz file"):
        pretrained.read(path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ([1], 0, "not the header of a .safetensors file: expected an object"),
        ("[" * 200_000, 0, "not the header of a .safetensors file"),
        ('{"a": 1, "a": 2}', 0, "not the header of .* a name occurs twice"),
        ("{", 0, "not the header of a .safetensors file"),
        ({"a": 3}, 8, "a: expected dtype, shape and data_offsets, got 3"),
        ({"a": entry(more=1)}, 8, "a: expected dtype, shape and data_offsets"),
        ({"a": entry("F4")}, 8, "a: unknown dtype 'F4'; known are BOOL,"),
        ({"a": entry(["F32"])}, 8, "a: unknown dtype"),
        ({"a": entry(shape=(-2,))}, 8, r"a: expected a shape of integers >= 0, got \[-2\]"),
        ({"a": entry(shape=(2.0,))}, 8, r"a: expected a shape of integers"),
        ({"a": entry(shape=(True,), offsets=(0, 4))}, 4, r"a: expected a shape of integers"),
        ({"a": entry(offsets=(8, 0))}, 8, r"a: F32 \[2\] takes 8 bytes, but .* \[8, 0\]"),
        ({"a": entry(offsets=(-8, 0))}, 8, r"a: expected two data_offsets >= 0"),
        ({"a": entry(offsets=(0, 8, 9))}, 8, r"a: expected two data_offsets >= 0"),
        ({"a": entry(shape=(3,))}, 8, r"a: F32 \[3\] takes 12 bytes, but .* are \[0, 8\]"),
        ({"a": entry()}, 7, "a: at bytes 0 to 8 of the data; .* within the 7 there are"),
        ({"a": entry()}, 9, "9 bytes of data, but the header describes 8"),
        ({"a": entry(offsets=(4, 12))}, 12, "a: at bytes 4 to 12 .* begin at 0"),
        (
            {"a": entry(), "b": entry(offsets=(4, 12))}, 12,
            "b: at bytes 4 to 12 of the data; expected them to begin at 8",
        ),
        ({"a": entry(shape=[1] * 99, offsets=(0, 4))}, 4, "a: no array has the shape"),
        ({"a": entry(shape=[0, 2**80], offsets=(0, 0))}, 0, "a: no array has the shape"),
    ],
)  # fmt: skip
def test_damaged_safetensors_are_refused(header, data, words, tmp_path):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * data)
    with pytest.raises(pretrained.WeightsError, match=words) as caught:
        pretrained.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\1\0\0", b"\xff" * 8, (100).to_bytes(8, "little") + b"{}"]
)
def test_safetensors_cut_within_the_header_are_refused(content, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(pretrained.WeightsError, match=r"not a complete \.safetensors file"):
        pretrained.read(path)


# The wiring


@pytest.fixture(scope="module")
def digits():
    config = schema.default()
    return sources.load(config.data), sharding.make_mesh()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A config of a network of two blocks, so that building it is quick, and its weights."""

    def build(config, dtype):
        return tiny(stem="small", dtype=dtype)

    monkeypatch.setitem(thanos.ENCODERS, "resnet18", build)
    tensors = tiny_tensors(channels=1, kernel=3)
    config = schema.default()
    config.method = "thanos"
    config.model.encoder = "resnet18"
    config.model.decoder = "mlp"
    config.model.mlp.widths = (16, 8)
    config.model.weights = str(write_safetensors(tmp_path / "w.safetensors", tensors))
    return config


def test_a_run_starts_every_encoder_from_the_file(small, digits):
    parts = build(small, *digits)
    expected = pretrained.load(small.model.weights, tiny(stem="small"), parts.input_shape)
    params, averages = parts.state.params, parts.state.model_state["batch_stats"]
    for name in ("encoders_0", "encoders_1"):
        equal(params[name], expected["params"])
        equal(averages[name], expected["batch_stats"])
    # All else is as without the file, and each encoder has arrays of its own to be donated.
    small.model.weights = ""
    random = build(small, *digits).state
    assert jax.tree.structure(random) == jax.tree.structure(parts.state)
    assert jax.tree.map(jnp.shape, random) == jax.tree.map(jnp.shape, parts.state)
    assert not np.array_equal(
        random.params["encoders_0"]["stem"]["kernel"], params["encoders_0"]["stem"]["kernel"]
    )
    for name in ("classifier_0", "decoder"):
        equal(params[name], random.params[name])
    pointers = [
        shard.data.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(parts.state.params)
        for shard in leaf.addressable_shards
    ]
    assert len(set(pointers)) == len(pointers)


def test_nothing_compiles_before_the_file_is_checked(small, digits, monkeypatch):
    monkeypatch.setattr(train_state, "create", None)
    shutil.copy(small.model.weights, f"{small.model.weights}.pth")
    small.model.weights = f"{small.model.weights}.pth"
    with pytest.raises(UserError, match="is a pickle"):
        build(small, *digits)


def test_weights_of_a_resnet_are_refused_for_another_encoder(small, digits, monkeypatch):
    monkeypatch.setattr(train_state, "create", None)
    small.model.encoder = "vit"
    schema.check(small)
    with pytest.raises(
        pretrained.WeightsError,
        match=r"config\.model\.weights: .*expected names such as params/.*, for ViT, got",
    ):
        build(small, *digits)


class BuiltError(Exception):
    """Stands in for all that follows building."""


@pytest.fixture
def built(monkeypatch):
    """Ends a run where it is built; the value of `resumes` that it is built with."""

    def record(config: ml_collections.ConfigDict, dataset, mesh, *, resumes=False, **_):
        raise BuiltError(resumes)

    monkeypatch.setattr(stages, "build", record)

    def ask(call):
        with pytest.raises(BuiltError) as caught:
            call()
        return caught.value.args[0]

    return ask


def test_the_file_is_read_unless_a_checkpoint_replaces_it(small, digits, built, tmp_path):
    folder = tmp_path / "run"

    def resumes():
        return built(lambda: run_module.run(small, folder, load=lambda _: digits[0]))

    assert not resumes()
    (folder / "checkpoints" / "5.tmp").mkdir(parents=True)  # of a save that was cut short
    assert not resumes()
    (folder / "checkpoints" / "5").mkdir()
    assert resumes()


@pytest.mark.parametrize(
    ("method", "stage"), [("group_dro", "representation"), ("erm", "classifier")]
)
def test_the_file_is_read_unless_a_stage_has_a_checkpoint(
    method, stage, small, digits, built, tmp_path
):
    small.task, small.groups.method = "groups", method

    def resumes():
        return built(lambda: groups_task.prepare(stages.Run(small, *digits, tmp_path / "run")))

    assert not resumes()
    (tmp_path / "run" / stage / "checkpoints" / "5").mkdir(parents=True)
    assert resumes()


def test_a_run_goes_on_without_the_file(small, digits, tmp_path):
    """`build` does not read it then, and the state it makes fits the checkpoint's."""
    path, small.model.weights = small.model.weights, str(tmp_path / "gone.npz")
    parts = build(small, *digits, resumes=True)
    small.model.weights = path
    other = build(small, *digits)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), parts.state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), other.state
    )


@pytest.mark.parametrize(("task", "stage"), [("transfer", "."), ("groups", "representation")])
def test_the_file_is_read_where_the_checkpoints_are_of_a_run_that_goes(
    task, stage, small, digits, built, tmp_path
):
    small.task = task
    folder = tmp_path / "run"
    (folder / stage / "checkpoints" / "5").mkdir(parents=True)

    def resumes():
        return built(
            lambda: run_module.run(small, folder, load=lambda _: digits[0], overwrite=True)
        )

    (folder / "config.json").write_text(json.dumps(small.to_dict()), encoding="utf-8")
    assert resumes()
    small.seed = 1
    assert not resumes()


@pytest.mark.slow
def test_a_run_trains_from_the_file_and_goes_on_without_it(small, digits, tmp_path, monkeypatch):
    small.method = "ce"
    small.train.update(batch_size=64, max_steps=4, warmup_epochs=0.0, checkpoint_every_epochs=0.1)
    small.transfer.update(iterations=5, neighbours=3)
    small.report.map_points = 60
    monkeypatch.setattr(transfer, "_figures", lambda *arguments: {})
    folder = tmp_path / "run"
    with jax.numpy_rank_promotion("allow"):  # a run is not as strict as models
        first = run_module.run(small, folder, load=lambda _: digits[0])
    (folder / "results.json").unlink()
    pathlib.Path(small.model.weights).unlink()
    timing = {"train_seconds", "images_per_second"}
    with jax.numpy_rank_promotion("allow"):
        again = run_module.run(small, folder, load=lambda _: digits[0])
    assert {k: v for k, v in again.items() if k not in timing} == {
        k: v for k, v in first.items() if k not in timing
    }
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(pretrained.WeightsError, match=r"there is no file .*w\.safetensors"):
        run_module.run(small, folder, load=lambda _: digits[0])


def test_another_file_is_another_run(small, tmp_path):
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(small.to_dict()), encoding="utf-8")
    resume.same_run(tmp_path, small)
    small.model.weights = "other.npz"
    with pytest.raises(ConfigError, match=r"model\.weights: .*w\.safetensors' there"):
        resume.same_run(tmp_path, small)
