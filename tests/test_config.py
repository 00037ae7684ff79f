"""The schema: every misuse is refused by name, before anything is compiled."""

import dataclasses
import json

import pytest

from thanos_jax import config as schema
from thanos_jax import methods
from thanos_jax.config import __main__ as printer
from thanos_jax.errors import ConfigError
from thanos_jax.train.objective import METHODS


def test_default_passes_its_own_schema():
    schema.check(schema.default())


@pytest.mark.parametrize("key", schema.FIELDS)
def test_every_key_has_a_meaning_and_a_default_that_fits(key):
    field = schema.FIELDS[key]
    assert field.meaning
    assert field.accepts(field.default)


def test_unknown_key_in_a_config_file_is_refused_at_once():
    config = schema.default()
    with pytest.raises(AttributeError, match="tempreature"):
        config.loss.tempreature = 0.1


def test_unknown_key_is_named_with_the_nearest():
    config = schema.default().unlock()
    config.loss.tempreature = 0.1
    with pytest.raises(ConfigError, match=r"config\.loss\.tempreature.*loss\.temperature"):
        schema.check(config)


def test_missing_key_is_named():
    config = schema.default().unlock()
    del config.train.epochs
    with pytest.raises(ConfigError, match=r"config\.train\.epochs: missing"):
        schema.check(config)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("method", "thanso", r"config\.method: expected one of .*thanos.*'thanso'"),
        ("data.name", "imagenet", r"config\.data\.name.*digits.*'imagenet'"),
        ("loss.temperature", 0.0, r"config\.loss\.temperature: expected above 0.*got 0\.0"),
        ("loss.alpha", 1.5, r"config\.loss\.alpha: expected at least 0, at most 1, got 1\.5"),
        ("train.batch_size", 0, r"config\.train\.batch_size"),
        ("train.micro_batch_size", -8, r"config\.train\.micro_batch_size: expected at least 0"),
        ("train.micro_batch_size", 48, r"micro_batch_size: expected .*divisor.* = 128, got 48"),
        ("train.micro_batch_size", 256, r"micro_batch_size: expected .*divisor.* = 128, got 256"),
        ("train.images_per_class", 48, r"images_per_class: expected .*divisor.* = 128 .*got 48"),
        ("train.images_per_class", 128, r"images_per_class: .* = 128 below it, got 128"),
        ("train.images_per_class", -2, r"config\.train\.images_per_class: expected at least 0"),
        ("train.epochs", -1.0, r"config\.train\.epochs"),
        ("train.learning_rate", float("nan"), r"config\.train\.learning_rate.*nan"),
        ("augment.crop_scale", (0.2,), r"config\.augment\.crop_scale: expected two numbers"),
        ("augment.crop_scale", (0.9, 0.2), r"config\.augment\.crop_scale"),
        ("augment.crop_scale", ("a", "b"), r"config\.augment\.crop_scale"),
        ("augment.crop_scale", (0.5, 2.0), r"config\.augment\.crop_scale"),
        ("augment.jitter", (0.4, 0.4, 0.4, 0.6), r"config\.augment\.jitter"),
        ("transfer.regularization", (float("inf"),), r"config\.transfer\.regularization"),
        ("train.evaluate_every_epochs", 1e-320, r"config\.train\.evaluate_every_epochs"),
        ("model.vit.heads", 7, r"config\.model\.vit\.heads: expected a divisor of .* = 256, got 7"),
        ("model.mlp.widths", (), r"config\.model\.mlp\.widths: expected one or more"),
        ("model.convnet.kernels", (0, 3), r"convnet\.kernels: expected one or more positive"),
        ("model.convnet.strides", (2,), r"convnet\.strides: expected 2 numbers.*got \(2,\)"),
    ],
)
def test_value_outside_its_field_is_refused(key, value, words):
    config = schema.default()
    *sections, name = key.split(".")
    node = config
    for section in sections:
        node = node[section]
    with node.ignore_type():
        node[name] = value
    with pytest.raises(ConfigError, match=words):
        schema.check(config)


@pytest.mark.parametrize(("key", "value"), [("seed", True), ("seed", 1.0), ("method", 3)])
def test_wrong_type_is_refused(key, value):
    config = schema.default()
    with config.ignore_type():
        config[key] = value
    with pytest.raises(ConfigError, match=f"config.{key}: expected"):
        schema.check(config)


def test_argument_of_a_config_file():
    presets = {"encoder": ("mlp", "vit"), "task": ("transfer", "groups")}
    for argument, expected in (
        ("", ("thanos", "mlp", "transfer")),
        ("supcon", ("supcon", "mlp", "transfer")),
        ("spread,vit", ("spread", "vit", "transfer")),
        ("groups,vit,spread", ("spread", "vit", "groups")),
        ("groups", ("thanos", "mlp", "groups")),
    ):
        assert schema.parse_argument(argument, **presets) == expected
    assert schema.parse_argument("", method="joint") == ("joint",)
    with pytest.raises(ConfigError, match=r"preset.*'spraed'; did you mean 'spread'"):
        schema.parse_argument("spraed", **presets)
    with pytest.raises(ConfigError, match=r"mlp, vit, transfer, groups, got 'vits'.*'vit'"):
        schema.parse_argument("thanos,vits", **presets)
    with pytest.raises(ConfigError, match="one encoder at most, got 'vit' and 'mlp'"):
        schema.parse_argument("vit,thanos,mlp", **presets)
    with pytest.raises(ConfigError, match=r"preset: expected one of .*, got ''"):
        schema.parse_argument("thanos,", **presets)


def test_a_config_file_asks_for_another_beside_it(tmp_path):
    asking = tmp_path / "own.py"
    (tmp_path / "other.py").write_text("RATE = 3\n", encoding="utf-8")
    assert schema.beside(str(asking), "other").RATE == 3
    with pytest.raises(ConfigError) as raised:
        schema.beside(str(asking), "mnist")
    assert str(raised.value) == f"{asking}: expected mnist.py beside it, got none"


def test_design_names_nine_methods():
    assert list(METHODS) == list(methods.METHODS)
    assert set(METHODS) == {
        "ce", "info_nce", "supcon", "supcon_info_nce", "cauto", "spread", "supcon_cauto", "thanos",
        "joint",
    }  # fmt: skip


@pytest.mark.parametrize("key", [key for key in schema.FIELDS if not key.startswith("data.")])
def test_every_meaning_stands_alone(key):
    first, *others = schema.FIELDS[key].meaning.replace(";", "").split()
    assert first not in ("of", "it", "they", "likewise", "before")  # of what?
    assert others
    assert "likewise" not in others


def test_printed_schema_holds_every_key(capsys):
    printer.main([])
    printed = capsys.readouterr().out
    assert all(f"{key} = " in printed for key in schema.FIELDS)
    assert dataclasses.is_dataclass(schema.Field)


def test_a_run_s_config_is_read_back(tmp_path):
    config = schema.default()
    config.model.mlp.widths = (7, 5)
    config.loss.alpha = 0.25
    path = tmp_path / "config.json"
    stored = json.loads(json.dumps(config.to_dict()))
    del stored["data"]["random_bits"]  # as if the key were younger than the run
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert schema.read(path).to_dict() == config.to_dict()
    stored["loss"]["alhpa"] = 1.0
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"loss\.alhpa: no such key; did you mean"):
        schema.read(path)
    with pytest.raises(ConfigError, match=r"expected the config\.json of a run"):
        schema.read(tmp_path / "none.json")
