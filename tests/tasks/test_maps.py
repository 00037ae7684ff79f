"""The columns of each task's map: what is known of an image, once."""

import re
import types

import numpy as np
import pytest

from thanos_jax import config as schema
from thanos_jax.data import sources
from thanos_jax.data.joined import JoinedSplit
from thanos_jax.downstream import projection
from thanos_jax.downstream.projection import Layout
from thanos_jax.tasks import maps, suspects, watched


@pytest.fixture(scope="module")
def digits():
    return sources.load(schema.default().data)


@pytest.fixture(scope="module")
def layout():
    points = np.arange(10, dtype=np.float32).reshape(5, 2)
    neighbours = np.zeros((5, 1), np.int32)
    return Layout(points, np.arange(5) * 7, points, neighbours)


def asked(dataset):
    config = schema.default()
    config.report.thumbnail_pixels = 16
    return types.SimpleNamespace(config=config, dataset=dataset)


def outputs(split):
    return {"fine": split.fine, "coarse": split.coarse, "prediction": 1 - split.coarse}


def test_groups_by_the_layout_of_the_representation(digits, layout):
    split = digits.splits["train"]
    names = np.array(["a #0", "a #1"])
    column = maps.recovered(split.fine % 2, names)
    found = maps.of_groups(asked(digits), layout, outputs(split), column)
    assert [one.name for one in found.columns] == [
        "recovered group", "true group", "class", "predicted class", "right or wrong",
    ]  # fmt: skip
    np.testing.assert_array_equal(found.columns[0].values, split.fine[layout.mapped] % 2)
    assert found.columns[0].names == ("a #0", "a #1")
    assert set(found.columns[4].values) == {1}  # all wrong
    assert found.size == len(split)
    assert found.files.tolist() == [str(split.names[row]) for row in layout.mapped]
    assert found.sprite.asked == 8  # as large as digits are
    known = maps.of_groups(asked(digits), layout, outputs(split), None)
    assert known.columns[0].name == "true group"


def test_fine_labels_that_are_the_coarse_ones_are_shown_once(digits, layout):
    plain = digits._replace(coarse_names=digits.fine_names)
    split = digits.splits["train"]
    same = {**outputs(split), "coarse": split.fine, "prediction": split.fine}
    stays, scores = split.fine > 4, np.linspace(0, 1, len(split))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "lay_out", lambda run, embeddings: layout)
        once = maps.of_coreset(asked(plain), stays, scores, {**same, "embedding": None})
        unscored = maps.of_coreset(
            asked(digits), stays, np.zeros(0), {**outputs(split), "embedding": None}
        )
    names = ["coreset score", "kept", "class", "predicted class", "right or wrong"]
    assert [one.name for one in once.columns] == names
    np.testing.assert_array_equal(once.columns[1].values, stays[layout.mapped])
    assert set(once.columns[4].values) == {0}
    assert [one.name for one in unscored.columns] == ["kept", "fine label", *names[2:]]


def test_an_audit_without_files_names_images_on_the_map_as_on_the_cards(digits, monkeypatch):
    parts = {name: split.subset(np.arange(4)) for name, split in digits.splits.items()}
    images, splits = JoinedSplit(list(parts.values())), np.repeat(list(parts), 4)
    places = np.arange(24, dtype=np.float32).reshape(12, 2)
    layout = Layout(places, np.arange(12), places, np.zeros((12, 1), np.int32))
    monkeypatch.setattr(maps, "lay_out", lambda run, embeddings: layout)
    judged = {
        "given": np.zeros(12, int),
        "suggested": np.ones(12, int),
        "suspicion": np.linspace(1, 0, 12),
        "flagged": np.ones(12, bool),
    }
    found = maps.of_audit(
        asked(digits), images, splits, None, judged | {"predicted_right": np.zeros(12, bool)}
    )
    files = found.files.tolist()
    assert len(set(files)) == 12
    assert files[0] == f"training image {digits.splits['train'].names[0]}"
    assert found.named
    column = next(one for one in found.columns if one.name == "split")
    words = np.array(column.names)[column.values].tolist()
    assert words == [name.partition(" image ")[0] for name in files]
    ((text, _),) = suspects.figures(
        images, splits, digits.coarse_names, **judged, reading=""
    ).values()
    assert re.findall(r'alt="([^"]*)"', text) == files


def test_a_map_with_its_embedding_is_what_a_projector_shows(digits, layout, monkeypatch):
    split = digits.splits["test"]
    monkeypatch.setattr(maps, "lay_out", lambda run, embeddings: layout)
    embedding = np.arange(2 * len(split), dtype=np.float32).reshape(-1, 2)
    found = maps.of_transfer(asked(digits), {**outputs(split), "embedding": embedding})
    drawn = projection.Sample(layout.mapped, embedding[layout.mapped])
    shown = watched.points(found, drawn)
    np.testing.assert_array_equal(shown.embedding, embedding[layout.mapped])
    fine = [digits.fine_names[label] for label in split.fine[layout.mapped]]
    assert shown.columns["fine label"].tolist() == fine
    assert shown.columns["image"].tolist() == [str(split.names[row]) for row in layout.mapped]
    stored = split.read(layout.mapped)["image"]
    # Thumbnails of digits are kept without loss.
    np.testing.assert_array_equal(shown.thumbnails, np.repeat(stored, 3, axis=3))
    monkeypatch.setattr(watched.pictures, "SPRITE_SIDE", 16)  # of four thumbnails
    few = watched.points(found, drawn)
    np.testing.assert_array_equal(few.embedding, embedding[layout.mapped[[0, 1, 3, 4]]])
    assert few.thumbnails.shape == (4, 8, 8, 3)
    with pytest.raises(
        ValueError, match=r"embedding: expected rows for the map's .* got 3 of other"
    ):
        watched.points(found, projection.Sample(layout.mapped[:3], embedding[:3]))
