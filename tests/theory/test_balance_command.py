"""The command of the predicted spread, as a user gives it."""

import json

import numpy as np
import pytest
from absl import flags
from PIL import Image

from thanos_jax.errors import UserError
from thanos_jax.theory import balance
from thanos_jax.theory.balance import sweep


@pytest.fixture(scope="module")
def command(command_module):
    with command_module(
        "thanos_jax.theory.balance.__main__", "workdir", "classes", "temperature", "loss",
        "denominator", "views", "batch_size", "images_per_class", "images_in_all", "runs",
    ) as module:  # fmt: skip
        yield module


@pytest.fixture
def given(command):
    """Calls the command with flags."""

    def call(*arguments):
        flags.FLAGS(["balance", *arguments])
        command.main([])

    yield call
    flags.FLAGS.unparse_flags()
    for name in ("classes", "temperature", "loss", "batch_size", "images_per_class", "runs"):
        flags.FLAGS[name].unparse()


def make_run(folder, method, alpha, spread):
    folder.mkdir(parents=True)
    loss = {"alpha": alpha, "beta": 0.5, "temperature": 0.5, "denominator": "all", "views": "all"}
    config = {"method": method, "loss": loss, "train": {"batch_size": 64}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    results = {"geometry": {"train": {"within_class_spread": spread}}}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


def test_prints_and_draws(given, tmp_path, capsys):
    runs = tmp_path / "runs"
    make_run(runs / "a" / "0", "spread", 0.25, 0.4)
    make_run(runs / "b" / "0", "thanos", 0.5, 0.8)
    make_run(runs / "c" / "0", "joint", 0.5, 0.3)  # of another loss
    (runs / "results.json").write_text("[]", encoding="utf-8")  # of a comparison
    folder = tmp_path / "new"
    given(
        "--classes=2,100", "--temperature=0.5", "--batch_size=64", f"--workdir={folder}",
        f"--runs={runs}",
    )  # fmt: skip
    said = capsys.readouterr().out
    found = json.loads((folder / "balance.json").read_text(encoding="utf-8"))
    drawn = {"images_in_all": np.inf, "draw": "uniform"}
    keywords = {"classes": 100, "images_per_class": 0.64, "temperature": 0.5, **drawn}
    edge = balance.threshold(**keywords)
    assert found["threshold"]["100"]["0.5"] == pytest.approx(edge)
    assert f"{edge:.3f}" in said
    place = sweep.TABLE.index(0.75)
    spread = balance.within_class_spread(alpha=0.75, **keywords)
    assert found["spread"]["100"]["0.5"][place] == pytest.approx(spread)
    half = found["for_half"]["100"]["0.5"]
    assert balance.within_class_spread(alpha=half, **keywords) == pytest.approx(0.5)
    measured = found["measured"][str(runs)]
    assert [(one["run"], one["alpha"], one["measured"]) for one in measured] == [
        ("a/0", 0.25, 0.4), ("b/0", 0.5, 0.8)
    ]  # fmt: skip
    two = {"classes": 2, "images_per_class": 32, "temperature": 0.5, **drawn}
    predicted = balance.within_class_spread(alpha=0.25, **two)
    assert measured[0]["predicted"] == pytest.approx(predicted)
    assert f"a/0: measured 0.400, predicted {predicted:.3f}" in said
    pictures = {"spread.png", "thresholds.png", "ranges.png", "measured.png"}
    assert {path.name for path in folder.iterdir()} == {"balance.json", *pictures}
    for name in pictures:
        with Image.open(folder / name) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20  # something is drawn


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--classes=2,x"], "^classes: expected whole numbers, got 2,x$"),
        (["--classes=1"], "^classes: expected an integer of at least 2, got 1$"),
        (["--temperature=warm"], "^temperature: expected numbers, got warm$"),
        (["--loss=supcon"], "^loss: expected 'spread' or 'joint', .*got 'supcon'$"),
        (["--images_per_class=5"], "^images_per_class: expected 0 or a divisor of .*256, got 5$"),
        (["--runs=/nowhere"], "^runs: expected a folder with finished runs .* got /nowhere$"),
    ],
)
def test_misuse_is_named_before_anything_is_written(given, arguments, words, tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(UserError, match=words):
        given("--classes=2", "--temperature=0.5", f"--workdir={folder}", *arguments)
    assert not folder.exists()


def test_balanced_batches_and_the_joint_loss():
    settings = sweep.Settings(loss="joint", batch_size=64, images_per_class=4)
    assert settings.weight == "beta"
    drawn = settings.drawn(100)
    assert drawn == {
        "classes": 100, "images_in_all": np.inf, "images_per_class": 4, "classes_in_batch": 16
    }  # fmt: skip
    assert settings.drawn(10)["classes_in_batch"] == 10
