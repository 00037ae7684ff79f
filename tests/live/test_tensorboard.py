"""TensorBoard's files: what is in them, and what happens where they cannot be written."""

import io

import numpy as np
import pytest
from PIL import Image
from watching import ending, events, expected, logged

from thanos_jax.live import log as live
from thanos_jax.live import pictures, tensorboard

tensorboardX = pytest.importorskip("tensorboardX")  # noqa: N816 (its name)

RECORDS = [{"step": step, "loss": 1 / step, "seconds": float(step)} for step in range(1, 5)]
CONFIG = {"seed": 0, "method": "spread", "loss.alpha": 0.5, "model.mlp.widths": (16, 8)}


def opened(folder):
    return tensorboard.BACKEND.open(folder, CONFIG)


def test_each_start_writes_the_records_anew(tmp_path):
    first = opened(tmp_path)
    for record in RECORDS[:3]:
        first.scalars("", record, 0.0)
        first.scalars("classifier", record, 0.0)
    first.finish(None)
    assert logged(tmp_path / "tensorboard") == expected(RECORDS[:3])
    (file,) = (tmp_path / "tensorboard").glob("events*")
    file.rename(file.with_name(file.name.replace("tfevents.1", "tfevents.0")))  # of long ago
    # The third step was not saved, and is taken again; the classifier is not trained again.
    second = opened(tmp_path)
    for record in (*RECORDS[:2], {**RECORDS[2], "loss": 9.0}, RECORDS[3]):
        second.scalars("", record, 100.0 + record["step"])
    second.finish(None)
    again = [*RECORDS[:2], {**RECORDS[2], "loss": 9.0}, RECORDS[3]]
    assert logged(tmp_path / "tensorboard") == expected(again)
    assert logged(tmp_path / "tensorboard" / "classifier") == expected(RECORDS[:3])
    times = [event.wall_time for event in events(tmp_path / "tensorboard") if event.step]
    assert times == [101, 102, 103, 104]


def test_pictures_results_and_config(tmp_path):
    logger, shown = opened(tmp_path), ending()
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    logger.images("", 5, {"views": grey, "colours": np.repeat(grey, 3, axis=2)})
    logger.finish(shown)
    found = {}
    for event in events(tmp_path / "tensorboard"):
        found |= {value.tag: (event.step, value) for value in event.summary.value}
    for name, channels in (("views", 1), ("colours", 3)):
        step, value = found[name]
        image = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
        assert (step, value.image.height, value.image.width) == (5, 3, 4)
        np.testing.assert_array_equal(image.reshape(3, 4, channels), np.broadcast_to(
            grey, (3, 4, channels)))  # fmt: skip
    assert found["results/fine_accuracy"][0] == shown.step
    assert found["results/geometry/test/alignment"][1].simple_value == 0.25
    start = found["_hparams_/session_start_info"][1].metadata.plugin_data.content
    assert b"loss.alpha" in start
    assert b"(16, 8)" in start
    experiment = found["_hparams_/experiment"][1].metadata.plugin_data.content
    assert b"results/fine_accuracy" in experiment
    assert b"alignment" not in experiment


def test_the_projector_has_every_point_its_labels_and_its_thumbnail(tmp_path):
    names = np.array(["a\tb", "c\nd", "<script>", "d", "e"])
    shown = ending(5, 4, label=names, file=np.array(list("vwxyz"))).points
    for _ in range(2):  # a second time replaces the first
        tensorboard.write_projector(tmp_path, shown)
    folder = tmp_path / "projector"
    table = np.loadtxt(folder / "tensors.tsv", delimiter="\t", dtype=np.float32)
    np.testing.assert_allclose(table, shown.embedding, rtol=1e-5)
    lines = (folder / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["label\tfile", "a b\tv", "c d\tw", "<script>\tx", "d\ty", "e\tz"]
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (12, 12, 3)
    for k in range(5):
        row, column = divmod(k, 3)
        cell = sprite[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_array_equal(cell, shown.thumbnails[k])
    assert not sprite[8:].any()
    text = (tmp_path / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert text.count("embeddings {") == 1
    assert text.count("single_image_dim: 4") == 2
    tensorboard.write_projector(tmp_path, ending(2, 4).points)  # of one column there is no header
    assert (folder / "metadata.tsv").read_text(encoding="utf-8") == "class 0\nclass 1\n"


def test_a_sprite_is_no_larger_than_the_projector_shows(monkeypatch):
    assert pictures.most_thumbnails(32) == 65536
    assert pictures.most_thumbnails(100) == 81**2
    monkeypatch.setattr(pictures, "SPRITE_SIDE", 15)
    assert pictures.sprite(np.zeros((9, 5, 5, 3), np.uint8)).shape == (15, 15, 3)
    with pytest.raises(ValueError, match="at most 9 of 5 pixels, got 10"):
        pictures.sprite(np.zeros((10, 5, 5, 3), np.uint8))


def test_rows_of_images_are_enlarged_and_apart():
    lines = [np.full((4, 8, 8, 1), 7, np.uint8), np.full((4, 8, 8, 1), 2.0, np.float32)]
    picture = pictures.rows(lines)
    assert picture.shape == (2 * 128 + 2, 4 * 128 + 6, 1)
    assert (picture[:128, :128] == 7).all()
    assert (picture[128:130] == 255).all()
    assert (picture[130:, :128] == 255).all()  # 2.0 is clipped


def run_a_little(folder):
    with live.opened(folder, {"tensorboard": True, "wandb": False}, CONFIG) as log:
        for record in RECORDS:
            log.scalars("", record)
        log.finish(ending)
    return log


def test_an_unwritable_folder_is_one_warning(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file", encoding="utf-8")
    log = run_a_little(tmp_path)
    assert list(log.errors) == ["tensorboard"]
    assert (
        capsys.readouterr().err.count("tensorboard is turned off after an error: FileExists") == 1
    )


def test_a_full_disk_is_one_warning(tmp_path, monkeypatch, capsys):
    class Full(io.BytesIO):
        """As a file on a full disk."""

        def flush(self):
            raise OSError(28, "No space left on device")

        def fileno(self):
            return self.flush()

        def close(self):
            pass

    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: Full())
    log = run_a_little(tmp_path)
    assert log.errors == {"tensorboard": "OSError: [Errno 28] No space left on device"}
    assert capsys.readouterr().err.count("WARNING") == 1
