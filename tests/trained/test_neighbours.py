"""The nearest images: against all pairs by hand, by name, from files and from embeddings."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import thanos_jax
from thanos_jax.errors import ConfigError
from thanos_jax.trained import embeddings, images, neighbours


def test_nearest_is_exact(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 90)  # three queries at a time
    rng = np.random.default_rng(0)
    among, queries = rng.normal(size=(30, 5)), rng.normal(size=(8, 5)).astype(np.float32)
    among[[3, 9]] = 7 * among[21]  # equal cosines
    among[4] = 0
    found = neighbours.nearest(queries, among.astype(np.float32), 30)
    for query, indices, similarities in zip(queries.astype(np.float64), *found, strict=True):
        lengths = np.linalg.norm(query) * np.linalg.norm(among, axis=1)
        cosines = among @ query / np.where(lengths > 0, lengths, 1)
        assert sorted(indices) == list(range(30))
        np.testing.assert_allclose(similarities, -np.sort(-cosines), atol=1e-6)
        np.testing.assert_allclose(cosines[indices], similarities, atol=1e-6)
    assert neighbours.nearest(queries, among, 99).indices.shape == (8, 30)
    assert neighbours.nearest(queries, among, 2).indices.shape == (8, 2)
    left_out = neighbours.nearest(queries[:2], among, 30, excluded=[[21], [5, 6]])
    assert (left_out.indices[0] == -1).sum() == 1
    assert not np.isin(left_out.indices[1], [5, 6]).any()
    assert np.isnan(left_out.similarities[1, -2:]).all()


@pytest.mark.parametrize(
    ("queries", "among", "k", "words"),
    [
        (np.ones((1, 3)), np.ones((4, 2)), 1, r"queries: expected width 2"),
        (np.ones((1, 2)), np.ones((4, 2)), 0, "k: expected at least 1, got 0"),
        (np.ones((1, 2)), np.full((4, 2), np.nan), 1, "among: expected finite numbers"),
        (np.ones(2), np.ones((4, 2)), 1, r"queries: expected \[n, d\]"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(queries, among, k, words):
    with pytest.raises(ValueError, match=words):
        neighbours.nearest(queries, among, k)


@pytest.fixture(scope="module")
def model(finished):
    return thanos_jax.load(finished.folder)


def test_images_find_each_other(finished, model, tmp_path):
    files = sorted(finished.pictures.rglob("*.png"))
    elsewhere = tmp_path / "copy <b>.png"
    shutil.copy(files[5], elsewhere)
    queries = [files[17], elsewhere]
    found = neighbours.neighbours(model, queries, finished.pictures, k=4)
    # The copy finds its original; an image of the folder does not find itself.
    original = files[5].relative_to(finished.pictures).as_posix()
    assert (found[1][0].name, found[1][0].path) == (original, str(files[5].resolve()))
    assert found[1][0].similarity == pytest.approx(1)
    assert [len(near) for near in found] == [4, 4]
    assert files[17].relative_to(finished.pictures).as_posix() not in {x.name for x in found[0]}
    unit = model.encode(files, normalize=True).astype(np.float64)
    cosines = np.delete(unit @ unit[17], 17)
    np.testing.assert_allclose([x.similarity for x in found[0]], -np.sort(-cosines)[:4], atol=1e-5)

    source = images.open_source(str(finished.pictures), model.rule)
    stored = tmp_path / "all.npz"
    embeddings.to_file(model, source, stored, embeddings.Settings())
    assert neighbours.neighbours(model, queries, stored, k=4) == found
    table = embeddings.read(stored)
    embeddings.tables.write(stored, table._replace(model="0123"))
    with pytest.raises(ConfigError, match=r"among: expected embeddings of this model.*of 0123"):
        neighbours.neighbours(model, queries, stored)

    found[0][0] = found[0][0]._replace(path="")  # not a file
    neighbours.write_sheet(tmp_path / "sheet.html", queries, found)
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "copy &lt;b&gt;.png" in page
    assert "<b>.png" not in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2 * 5 - 1
    with (
        Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as shown,
        Image.open(files[17]) as own,
    ):
        np.testing.assert_array_equal(np.asarray(shown)[..., 0], np.asarray(own))


@pytest.fixture(scope="module")
def the_command(command_module):
    with command_module("thanos_jax.neighbours", "workdir") as module:
        yield module


def test_the_command_prints_and_leaves_a_page(the_command, finished, tmp_path, capsys):
    files = sorted(map(str, finished.pictures.rglob("*.png")))
    asked = the_command.PARSER.parse_args([
        f"--workdir={finished.folder}", "--query", *files[:2], f"--query={files[2]}", "--k=3",
        f"--among={finished.pictures}", f"--out={tmp_path}/page.html",
    ])  # fmt: skip
    the_command.main(asked)
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if re.match(r"  [01]\.\d{4}  (low|high)/\d/\d{4}\.png", line)]
    assert len(shown) == 9
    assert [line for line in lines if line in files] == files[:3]
    assert (tmp_path / "page.html").exists()
