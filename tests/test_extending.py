"""The examples of docs/extending.md: each is made in a copy of the package, counted and run."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MOST = 3  # files that an addition may touch; a task one more
# What is added -> file in the package -> (a text, what is put after it, ...): after "" at the end,
# after None as a new file.
EXAMPLES = {
    "loss": {
        "losses/contrastive.py": (
            "",
            '''
            def push_apart(embeddings: Any, labels: Any, **options: Any) -> jax.Array:
                """Half of `class_conditional_info_nce`."""
                return 0.5 * class_conditional_info_nce(embeddings, labels, **options)
            ''',
        ),
        "losses/__init__.py": ("    joint,\n", "    push_apart,\n"),
    },
    "method": {
        "train/objective.py": (
            "METHODS: dict[str, Method] = {\n",
            """
                "push": Method(
                    lambda config, embeddings, labels, **shared: losses.push_apart(
                        embeddings, labels, **shared
                    ),
                    reconstruct=False,
                ),
            """,
        ),
        "methods.py": (
            "METHODS: dict[str, Method] = {\n",
            '    "push": Method("cross-entropy and half of class-conditional InfoNCE"),\n',
        ),
    },
    "data": {
        "data/stripes.py": (
            None,
            '''
            """Stripes, horizontal and vertical, thin and thick."""

            import numpy as np

            from thanos_jax.data.dataset import Dataset
            from thanos_jax.data.splits import ArraySplit

            NAMES = ("thin rows", "thick rows", "thin columns", "thick columns")


            def load(config_data):
                def split(seed, size=160):
                    rng = np.random.default_rng(seed)
                    fine = rng.integers(0, 4, size)
                    start, width = rng.integers(0, 4, (size, 1)), 1 + fine[:, None] % 2
                    along = (np.arange(8) + start) // width
                    images = np.repeat(along[:, :, None] % 2 * 255, 8, axis=2)
                    images[fine >= 2] = images[fine >= 2].swapaxes(1, 2)
                    return ArraySplit(images.astype(np.uint8)[..., None], fine, fine // 2)

                splits = {"train": split(0), "test": split(1)}
                names = ("rows", "columns")
                return Dataset("stripes", splits, names, NAMES, (8, 8, 1), (0.5,), (0.5,))
            ''',
        ),
        "data/sources.py": (
            *("from thanos_jax.data import (\n", "    stripes,\n"),
            *(
                "_LOADERS: dict[str, Callable[[ConfigDict], Dataset]] = {\n",
                '    "stripes": stripes.load,\n',
            ),
        ),
    },
    "encoder": {
        "models/linear.py": (
            None,
            '''
            """One linear layer."""

            import flax.linen as nn


            class Linear(nn.Module):
                """Embeddings of width 8."""

                @nn.compact
                def __call__(self, images, *, train):
                    return nn.Dense(8)(images.reshape(len(images), -1))
            ''',
        ),
        "models/thanos.py": (
            *(
                "from thanos_jax.models.decoder import ConvDecoder, MLPDecoder\n",
                "from thanos_jax.models.linear import Linear\n",
            ),
            *(
                "ENCODERS: dict[str, Callable[[Any, DTypeLike], nn.Module]] = {\n",
                '    "linear": lambda config, dtype: Linear(),\n',
            ),
        ),
        "config/fields.py": (
            '"vit", "architecture of the encoder", (',
            '"linear", ',
        ),
    },
    "task": {
        "tasks/plain.py": (
            None,
            '''
            """A classifier, and no more."""

            from typing import NamedTuple

            from thanos_jax.tasks import ending, stages


            class Prepared(NamedTuple):
                first: stages.Stage


            def trainings(run):
                stages.require_classifiable(run)
                one = stages.classifier_config(run.config)
                return {"classifier": stages.planned(run, one)}


            def prepare(run):
                trainings(run)
                return Prepared(stages.classifier(run))


            def perform(run, prepared):
                trained = stages.train(run, prepared.first)
                results = {
                    "coarse_accuracy": stages.accuracy(trained.outputs("test")),
                    "largest_share": float(trained.outputs("test")["prediction"].mean()),
                }
                return ending.finish(run, prepared.first, trained, results, dict)
            ''',
        ),
        "run.py": (
            *("from thanos_jax.tasks import (\n", "    plain,\n"),
            *("TASKS: dict[str, Any] = {\n", '    "plain": plain,\n'),
        ),
        "config/fields.py": ('        ("transfer", ', '"plain", '),
    },
    "table": {
        "tables/definitions.py": (
            "TABLES: dict[str, Table] = {\n",
            """
                "rates": Table(
                    "Learning rates",
                    _REPRESENTATIONS,
                    (COARSE,),
                    methods=("push",),
                    axes=(Axis("rate", "train.learning_rate", (0.1, 0.01)),),
                ),
            """,
        ),
    },
    "number": {
        "report/numbers.py": (
            "NUMBERS: dict[str, Number] = {\n",
            '    "largest_share": _percent("images predicted to be of class 1", card=1),\n',
        ),
    },
}
PROGRAM = """
import json, pathlib, sys
from thanos_jax import config as schema
from thanos_jax.dry_run import describe
from thanos_jax.run import run
from thanos_jax.tables import rows

folder = pathlib.Path(sys.argv[1])
config = schema.default()
config.data.name, config.method, config.model.encoder = "stripes", "push", "linear"
config.train.update(batch_size=16, epochs=2.0, learning_rate=0.01)
config.transfer.iterations = 5
config.report.map_points = 20
results = run(config, folder / "transfer")
assert results["dataset"] == "stripes" and results["method"] == "push", results
assert results["fine_accuracy"] > 0.25 and results["embedding_dim"] == 8
config.task = "plain"
assert any("ce, 1 x linear" in line for line in describe(config, costs=()))
results = run(config, folder / "plain")
assert run(config, folder / "plain") == results  # finished
assert (folder / "plain" / "classifier" / "metrics.jsonl").exists()
page = (folder / "plain" / "report.html").read_text(encoding="utf-8")
assert "images predicted to be of class 1" in page
assert f"{100 * results['largest_share']:.1f}&nbsp;%" in page
config.task = "transfer"
made = rows.rows_of("rates", config)
assert [dict(row.labels) for row in made] == [
    {"method": "push", "rate": 0.1}, {"method": "push", "rate": 0.01}
]
"""


def put(path, anchor, added):
    """Adds text to a file after another, to its end, or as the file."""
    added = textwrap.dedent(added).removeprefix("\n") if "\n " in added[:4] else added
    if anchor is None:
        assert not path.exists()
        path.write_text(added, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    assert anchor in text, (path, anchor)
    place = text.index(anchor) + len(anchor) if anchor else len(text)
    path.write_text(text[:place] + added + text[place:], encoding="utf-8")


def test_additions_touch_few_files():
    for name, files in EXAMPLES.items():
        assert len(files) <= MOST + (name == "task"), name
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert all(f'"{name}"' in text for name in EXAMPLES)
    # The places that the table names are there.
    named = re.findall(r"`((?:losses|train|data|models|config|tables|report)/[\w.]+py)`", text)
    assert len(named) > 10
    assert all((ROOT / "thanos_jax" / name).exists() for name in named)


@pytest.mark.slow
def test_the_examples_run(tmp_path):
    package = tmp_path / "thanos_jax"
    shutil.copytree(ROOT / "thanos_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    for files in EXAMPLES.values():
        for name, edits in files.items():
            for anchor, added in zip(edits[::2], edits[1::2], strict=True):
                put(package / name, anchor, added)
    words = os.environ.get("XLA_FLAGS", "").split()
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=tmp_path,  # where this package is found first
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "XLA_FLAGS": " ".join(word for word in words if "device_count" not in word),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
