"""What the tables run, and the papers' numbers beside them."""

import sys
import types

import pytest
from absl import flags

from thanos_jax import config as schema
from thanos_jax.errors import ConfigError
from thanos_jax.tables import comparison, papers
from thanos_jax.tables.definitions import TABLES
from thanos_jax.tables.rows import configured, folder_name, rows_of
from thanos_jax.tables.table import Axis, Row
from thanos_jax.train.objective import METHODS


def labels(name, *axes, config=None, **arguments):
    rows = rows_of(name, config or schema.default(), **arguments)
    return [tuple(row.labels[axis] for axis in axes) for row in rows]


def reported(table, method, **settings):
    config = schema.flatten(schema.default())
    config |= {"method": method, "data.name": "mnist"}
    config |= {key.replace("__", "."): value for key, value in settings.items()}
    numbers = papers.reported(table, config)
    assert all(number.paper in papers.PAPERS for number in numbers.values())
    return {key: (number.mean, number.deviation) for key, number in numbers.items()}


def test_coarse_to_fine_has_the_papers_rows_first_and_every_method():
    found = [method for (method,) in labels("coarse_to_fine", "method")]
    assert found == [
        *("info_nce", "supcon", "supcon_info_nce", "cauto", "spread", "supcon_cauto", "thanos"),
        *("ce", "joint"),
    ]
    assert set(found) == set(METHODS)


def test_settings_of_the_sweeps():
    assert labels("joint_loss", "method", "beta") == [
        ("joint", beta) for beta in (0.0, 0.2, 0.5, 0.8, 1.0)
    ]
    assert labels("randbit", "method", "bits") == [
        (method, bits)
        for method in ("info_nce", "joint", "supcon", "spread")
        for bits in (0, 5, 10, 15)
    ]
    assert labels("augmentation", "method", "augmentation", methods=["supcon"]) == [
        ("supcon", strength) for strength in ("none", "crop", "crop+flip", "full")
    ]


@pytest.mark.parametrize(
    ("encoder", "key", "widths"),
    [
        ("resnet18", "model.resnet.width", [4, 64, 128]),
        ("mlp", "model.mlp.widths", [(64, 32, width) for width in (4, 16, 64, 256)]),
        ("vit", "model.embedding_dim", [4, 16, 64, 256]),
    ],
)
def test_width_is_the_encoders(encoder, key, widths):
    config = schema.default()
    config.model.encoder = encoder
    config.model.mlp.widths = (64, 32, 8)
    rows = rows_of("embedding_size", config)
    assert [row.overrides for row in rows] == [
        {"method": method, key: width}
        for method in ("supcon", "info_nce", "joint")
        for width in widths
    ]


def test_spread_sweep_crosses_once():
    config = schema.default()
    config.loss.temperature = 0.2
    found = labels("spread_sweep", "alpha", "temperature", config=config)
    alphas = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    assert found == [*((a, 0.2) for a in alphas), (0.5, 0.1), (0.5, 0.5), (0.5, 1.0)]


def test_tuning_is_a_grid_and_shows_nothing_of_the_test_split():
    config = schema.default()
    config.train.learning_rate = 0.004
    found = labels("tuning", "temperature", "rate", config=config, methods=["supcon"])
    assert found == [(t, rate) for t in (0.1, 0.2, 0.5) for rate in (0.002, 0.004)]
    found = labels("tuning", "temperature", "rate", values=["1"], methods=["ce"], config=config)
    assert found == [(1.0, 0.002), (1.0, 0.004)]
    for table in ("tuning", "reconstruction"):
        shown = {column.path for column in TABLES[table].columns}
        assert shown == {"fine_accuracy_validation", "train_seconds"}


def test_each_strength_adds_to_the_one_before():
    config = schema.default()
    config.augment.jitter = (0.0, 0.0, 0.0, 0.0)
    rows = rows_of("augmentation", config, methods=["supcon"])
    made = [configured(config, row, 0).augment for row in rows]
    assert [one.crop_scale for one in made] == [(1.0, 1.0), *[(0.2, 1.0)] * 3]
    assert [one.flip for one in made] == [0, 0, 0.5, 0.5]
    assert [one.jitter_probability for one in made] == [0, 0, 0, 0.8]
    assert [one.grey_probability for one in made] == [0, 0, 0, 0.2]
    assert {one.jitter for one in made} == {(0.4, 0.4, 0.4, 0.1)}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("encoder", ["mlp", "resnet18"])
def test_every_row_is_a_config_with_a_folder_of_its_own(name, encoder):
    config = schema.default()
    config.model.encoder = encoder
    rows = rows_of(name, config)
    for row in rows:
        one = configured(config, row, 3)
        schema.check(one)
        flat = schema.flatten(one)
        assert flat["seed"] == 3
        assert all(flat[key] == value for key, value in row.overrides.items())
        assert next(iter(row.labels)) == "method"
    assert schema.flatten(config) == schema.flatten(schema.default()) | {"model.encoder": encoder}
    folders = {folder_name(row) for row in rows}
    assert len(folders) == len(rows)
    assert not [folder for folder in folders if set(folder) & set("/\\ :")]


def test_groups_rows_are_methods_of_the_task():
    rows = {row.labels["method"]: row for row in rows_of("groups", schema.default())}
    assert list(rows) == ["erm", "jtt", "george", "supcon", "spread", "thanos", "group_dro_true"]
    made = {name: configured(schema.default(), row, 0) for name, row in rows.items()}
    assert {one.task for one in made.values()} == {"groups"}
    robust = {name: one.groups for name, one in made.items()}
    assert {name: (made[name].method, r.method, r.choice) for name, r in robust.items()} == {
        "erm": ("ce", "erm", "error"),
        "jtt": ("ce", "jtt", "error"),
        "george": ("ce", "group_dro", "silhouette"),
        "supcon": ("supcon", "group_dro", "error"),
        "spread": ("spread", "group_dro", "error"),
        "thanos": ("thanos", "group_dro", "error"),
        "group_dro_true": ("ce", "group_dro_true", "error"),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"groups has no setting to vary.*got 1"):
        rows_of("groups", schema.default(), values=["1"])
    with pytest.raises(ConfigError, match=r"methods of groups: .*did you mean 'george'"):
        rows_of("groups", schema.default(), methods=["gerge"])


def test_recovery_crosses_representations_with_choices():
    config = schema.default()
    config.groups.choice = "silhouette"
    assert labels("recovery", "method", "choice", config=config) == [
        (method, "silhouette") for method in ("ce", "supcon", "spread", "thanos")
    ]
    found = labels("recovery", "method", "choice", methods=["ce"], values=["error", "silhouette"])
    assert found == [("ce", "error"), ("ce", "silhouette")]
    (row,) = rows_of("recovery", config, methods=["ce"])
    assert configured(config, row, 0).groups.method == "none"
    with pytest.raises(ConfigError, match=r"values: .*did you mean 'error'"):
        rows_of("recovery", config, values=["eror"])


def test_noise_is_judged_by_cross_entropy_on_right_labels():
    rows = rows_of("noise", schema.default(), methods=["mend_spread", "ce"], values=["0.4"])
    assert [tuple(row.labels.values()) for row in rows] == [
        ("ce", 0.0), ("ce", 0.4), ("mend_spread", 0.4)
    ]  # fmt: skip
    (first, *_) = rows_of("noise", schema.default(), methods=["elr"], values=["0.4"])
    assert first.labels == {"method": "ce", "noise": 0.0}  # also where it was not asked for
    found = [configured(schema.default(), row, 0) for row in rows]
    assert [(one.task, one.method, one.noise.method, one.noise.rate) for one in found] == [
        ("noise", "ce", "ce", 0.0), ("noise", "ce", "ce", 0.4), ("noise", "spread", "mend", 0.4)
    ]  # fmt: skip
    rates = {row.labels["noise"] for row in rows_of("noise", schema.default())}
    assert rates == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6}
    with pytest.raises(ConfigError, match="values: expected a number for each rate"):
        rows_of("noise", schema.default(), values=["x"])


def test_what_is_recovered_is_the_share_of_what_noise_costs():
    def runs(*accuracies):
        return {seed: {"coarse_accuracy": value} for seed, value in enumerate(accuracies)}

    lines = [
        ({"method": "ce", "noise": 0.0}, runs(0.9, 0.8)),
        ({"method": "ce", "noise": 0.2}, runs(0.5, 0.8, 0.7)),
        ({"method": "elr", "noise": 0.2}, runs(0.8, 0.9, 0.9)),
        ({"method": "elr", "noise": 0.4}, runs(0.8)),
    ]
    none, zero, found, unmatched = TABLES["noise"].derived(lines)
    # Noise costs seed 1 nothing; seed 2 has no run on right labels, and rate 0.4 none of ce.
    assert (none, unmatched) == ({}, {})
    assert zero == {0: {"recovered": 0.0}}
    assert found == {0: {"recovered": pytest.approx(0.75)}}


def test_coreset_has_the_whole_set_once():
    rows = rows_of("coreset", schema.default())
    methods = ("random", "common_strata", "forgetting", "el2n", "herding")
    assert [tuple(row.labels.values()) for row in rows] == [
        ("all", 1.0), *((method, f) for method in methods for f in (0.1, 0.3, 0.5))
    ]  # fmt: skip
    config = schema.default()
    config.method = "spread"
    for row in rows_of("coreset", config, values=["0.2"]):
        one = configured(config, row, 0)
        name = row.labels["method"]
        assert one.task == "coreset"
        assert one.coreset.fraction == (1 if name == "all" else 0.2)
        assert one.coreset.method == ("random" if name == "all" else name)
        assert one.method == ("spread" if name in ("common_strata", "herding") else "ce")
    with pytest.raises(ConfigError, match=r"values: expected a number for each fraction"):
        rows_of("coreset", config, values=["x"])
    with pytest.raises(ConfigError, match=r"methods of coreset: .*mean 'herding'"):
        rows_of("coreset", config, methods=["herd"])


def test_folders_are_legible():
    config = schema.default()
    (row,) = rows_of("joint_loss", config, values=["0.50"])
    assert folder_name(row) == "joint_beta_0.5"
    assert folder_name(rows_of("coarse_to_fine", config)[0]) == "info_nce"
    odd = Row({"method": "a", "x/y": ".. /é"}, {})
    assert folder_name(odd) == "a_x_y_.._é"


def test_values_replace_the_first_setting():
    assert labels("joint_loss", "beta", values=["0.3", "1", "0.30"]) == [(0.3,), (1.0,)]
    assert labels("randbit", "bits", methods=["supcon"], values=["1"]) == [(1,)]
    found = labels("spread_sweep", "alpha", "temperature", values=["0.2"])
    assert found == [(0.2, 0.5), (0.5, 0.1), (0.5, 0.2), (0.5, 0.5), (0.5, 1.0)]
    chosen = labels("augmentation", "augmentation", methods=["ce"], values=["full", "none"])
    assert chosen == [("full",), ("none",)]
    assert labels("coarse_to_fine", "method", methods=["ce", "supcon", "ce"]) == [
        ("ce",), ("supcon",)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "joint_los"}, "table: expected one of coarse_to_fine, .*did you mean 'joint_l"),
        ({"methods": ["thanso"]}, "methods of coarse_to_fine: .*'thanso'; did you mean 'thanos'"),
        (
            {"name": "joint_loss", "methods": ["ce"]},
            "methods of joint_loss: expected one of joint, got",
        ),
        ({"values": ["0.5"]}, "coarse_to_fine has no setting to vary, only methods; got 0.5"),
        ({"name": "joint_loss", "values": ["x"]}, "values: expected a number for each beta, got"),
        ({"name": "randbit", "values": ["0.5"]}, "a whole number for each number of bits, got '0"),
        ({"name": "augmentation", "values": ["ful"]}, "values: .*did you mean 'full'"),
    ],
    ids=lambda given: None if isinstance(given, str) else "-".join(given),
)
def test_misuse_is_refused_by_name(arguments, words):
    with pytest.raises(ConfigError, match=words):
        rows_of(**({"name": "coarse_to_fine", "config": schema.default()} | arguments))


def test_rows_that_cannot_be(monkeypatch):
    def rows(*axes):
        monkeypatch.setitem(TABLES, "joint_loss", TABLES["joint_loss"]._replace(axes=axes))
        rows_of("joint_loss", schema.default())

    with pytest.raises(ConfigError, match=r"joint_loss: the config has no key loss.gamma"):
        rows(Axis("gamma", "loss.gamma", (1,)))
    with pytest.raises(ConfigError, match="two rows are called 'joint_beta_1'"):
        rows(Axis("beta", "loss.beta", (1.0, 1 + 1e-14)))


def test_every_column_is_a_number_with_an_entry():
    heads = {column.path: column.head for table in TABLES.values() for column in table.columns}
    assert heads["geometry.test.collapse_index"] == "collapse index"
    assert all(heads.values())


def test_numbers_of_perfectly_balanced():
    assert reported("coarse_to_fine", "thanos") == {"fine_accuracy": (99.0, 0.1)}
    found = reported("coarse_to_fine", "supcon", data__name="cifar10")
    assert found == {"fine_accuracy": (51.8, 1.2)}
    # Sums over the rows of table 3 as printed.
    for name, means, deviations in (
        ("cifar10", 506.3, 1.9), ("cifar100", 422.7, 1.4), ("cifar100_u", 385.9, 2.3),
        ("mnist", 687.3, 0.7), ("tiny_imagenet", 326.7, 0.7),
    ):  # fmt: skip
        rows = papers.NUMBERS["coarse_to_fine"][name].values()
        numbers = [row["fine_accuracy"] for row in rows]
        assert sum(number.mean for number in numbers) == pytest.approx(means)
        assert sum(number.deviation for number in numbers) == pytest.approx(deviations)


def test_numbers_of_xue_et_al():
    cifar = {"data__name": "cifar100"}
    assert reported("joint_loss", "joint", loss__beta=0.8, **cifar) == {
        "fine_accuracy": (41.37, None)
    }
    assert reported("randbit", "supcon", data__random_bits=1, **cifar) == {
        "fine_accuracy": (28.13, None), "coarse_accuracy": (61.1, None)
    }  # fmt: skip
    wide = {"data__name": "cifar10", "data__random_bits": 2, "model__encoder": "resnet18"}
    assert reported("embedding_size", "info_nce", model__resnet__width=128, **wide) == {
        "fine_accuracy": (76.69, None), "coarse_accuracy": (97.65, None)
    }  # fmt: skip


def test_numbers_of_groups_stand_beside_their_rows():
    worst = {}
    for name in ("waterbirds", "isic", "celeb_a"):
        config = schema.default()
        config.data.name = name
        for row in rows_of("groups", config):
            flat = schema.flatten(configured(config, row, 0))
            found = papers.reported("groups", flat)
            worst.setdefault(row.labels["method"], []).extend(n.mean for n in found.values())
            key = "worst_group_auroc" if name == "isic" else "worst_group_accuracy"
            assert set(found) <= {key}
    assert worst == {
        "erm": [], "jtt": [83.8, 91.8, 77.9], "george": [88.4, 92.0, 55.0],
        "supcon": [86.8, 93.3, 66.1], "spread": [], "thanos": [88.6, 92.6, 89.4],
        "group_dro_true": [90.7, 92.3, 88.9],
    }  # fmt: skip
    waterbirds = {"data__name": "waterbirds"}
    assert reported("recovery", "supcon", **waterbirds) == {"recovery_f1": (47.1, None)}
    george = {"groups__choice": "silhouette", **waterbirds}
    assert reported("recovery", "ce", **george) == {"recovery_f1": (56.3, None)}
    assert reported("recovery", "ce", **waterbirds) == {}


@pytest.mark.parametrize(
    ("table", "method", "settings"),
    [
        ("coarse_to_fine", "ce", {}),
        ("coarse_to_fine", "thanos", {"data__name": "digits"}),
        ("coarse_to_fine", "thanos", {"data__random_bits": 5}),
        ("joint_loss", "joint", {"loss__beta": 0.8}),
        ("joint_loss", "joint", {"loss__beta": 0.5, "data__name": "cifar100"}),
        ("randbit", "supcon", {"data__random_bits": 5, "data__name": "cifar100"}),
        ("randbit", "supcon", {"data__random_bits": 0, "data__name": "cifar100"}),
        ("embedding_size", "info_nce", {"model__resnet__width": 64, "data__name": "cifar10"}),
        ("augmentation", "thanos", {}),
    ],
)
def test_numbers_are_not_shown_where_the_papers_have_none(table, method, settings):
    assert reported(table, method, **settings) == {}


def test_numbers_stay_where_only_reading_differs():
    assert reported("coarse_to_fine", "thanos", data__data_dir="x", data__read_threads=3)


CONFIG_FILE = """
from thanos_jax import config as schema

def of_method(config, method):
    return {"loss.temperature": {"supcon": 0.125}.get(method, 0.25), "train.learning_rate": 0.0625}

def get_config(argument=""):
    (method,) = schema.parse_argument(argument)
    config = schema.default()
    config.method = method
    config.update_from_flattened_dict(of_method(config, method))
    return config
"""


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_settings_of_each_method_come_from_the_config_file(tmp_path, command_module, monkeypatch):
    """Those of the command line go before them, and so do the table's own."""
    file = tmp_path / "own.py"
    file.write_text(CONFIG_FILE, encoding="utf-8")
    seen = {}

    def compare(config, folder, *, methods, of_method, **arguments):
        for table in ("coarse_to_fine", "spread_sweep"):
            rows = rows_of(table, config, methods[table], of_method=of_method)
            seen[table] = [
                (one.method, one.loss.temperature, one.train.learning_rate)
                for one in (configured(config, row, 0) for row in rows)
            ]
        return comparison.Outcome("", {}, 0)

    monkeypatch.setattr(comparison, "compare", compare)
    names = ("config", "dataset", "workdir", "table", "methods", "values", "seeds")
    with command_module("thanos_jax.compare", *names) as command:
        argv = ["compare", f"--config={file}", "--workdir=x", "--config.train.learning_rate=0.5"]
        monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for overrides
        flags.FLAGS(argv)
        methods = {"coarse_to_fine": ["supcon", "thanos"], "spread_sweep": ["spread"]}
        monkeypatch.setattr(command, "_METHODS", types.SimpleNamespace(value=methods))
        command.main([])
    assert seen["coarse_to_fine"] == [("supcon", 0.125, 0.5), ("thanos", 0.25, 0.5)]
    temperatures = [temperature for _, temperature, _ in seen["spread_sweep"]]
    assert temperatures == [0.25] * 7 + [0.1, 0.2, 0.5, 1.0]
