"""Digests of arrays and files: what they cover, and that no change goes unnoticed."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from thanos_jax.train import checksums

ARRAYS = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.asarray(jnp.asarray([1.5, -2.0], jnp.bfloat16)),
    "step": np.asarray(7, np.int32),
    "none": np.zeros((0, 4), np.float32),
}


def contents(**changed):
    given = {"step": 3, "saved": "2026-01-01", "metrics": {"loss": 0.1}, "arrays": {}, "files": {}}
    return {**given, **changed}


def test_digests_are_those_of_sha256sum(tmp_path):
    found = checksums.of_arrays(ARRAYS)
    assert found["half"] == {
        "dtype": "bfloat16",
        "shape": [2],
        # 1.5 is 0x3fc0, -2 is 0xc000; low bytes first.
        "sha256": hashlib.sha256(bytes([0xC0, 0x3F, 0x00, 0xC0])).hexdigest(),
    }
    assert found["step"]["sha256"] == hashlib.sha256(bytes([7, 0, 0, 0])).hexdigest()
    assert found["none"]["sha256"] == hashlib.sha256(b"").hexdigest()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "data").write_bytes(b"abc")
    (tmp_path / checksums.FILE).write_bytes(b"itself")
    assert checksums.of_files(tmp_path) == {
        "below/data": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    }


def test_the_layout_in_memory_does_not_matter():
    transposed = {"kernel": np.asfortranarray(ARRAYS["kernel"])}
    expected = {"kernel": checksums.of_arrays(ARRAYS)["kernel"]}
    assert checksums.of_arrays(transposed) == expected


def test_text_comes_back():
    given = contents(arrays=checksums.of_arrays(ARRAYS), metrics={"loss": 0.1, "nan": float("nan")})
    found = checksums.loads(checksums.dumps(**given))
    assert np.isnan(found["metrics"].pop("nan"))
    given["metrics"].pop("nan")
    assert found == {"format": 1, **given}


def test_no_flipped_bit_of_the_text_is_overlooked():
    text = checksums.dumps(**contents(arrays={"kernel": {"shape": [2, 3]}})).encode()
    for position in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError):  # noqa: PT011 - several kinds, UnicodeDecodeError too
            checksums.loads(flipped.decode())
    for length in range(len(text)):
        with pytest.raises(ValueError, match=r"not JSON|digest"):
            checksums.loads(text[:length].decode())


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"format": 1}'])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="its own digest"):
        checksums.loads(text)


def test_a_later_format_is_refused_by_its_number(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "_FORMAT", 2)
        text = checksums.dumps(**contents())
    with pytest.raises(ValueError, match="expected format 1, got 2"):
        checksums.loads(text)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"kernel": ARRAYS["kernel"] + 1}, "array kernel: its values have changed"),
        ({"kernel": ARRAYS["kernel"].T}, r"array kernel: shape [2, 3] was written, [3, 2] is"),
        ({"step": np.asarray(7, np.int64)}, "array step: dtype int32 was written, int64 is there"),
        ({"none": None}, "array none is missing"),
        ({"more": np.zeros(1)}, "array more was not written"),
    ],
)
def test_the_first_damaged_array_is_named(changed, words):
    expected = checksums.of_arrays(ARRAYS)
    arrays = {name: x for name, x in {**ARRAYS, **changed}.items() if x is not None}
    found = checksums.damaged_array(arrays, expected)
    assert found is None if words is None else words in found


def test_the_first_damaged_file_is_named(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"abcd")
    expected = checksums.of_files(tmp_path)
    (tmp_path / "another").write_bytes(b"of no importance")
    assert checksums.damaged_file(tmp_path, expected) is None
    path.write_bytes(b"abce")
    assert checksums.damaged_file(tmp_path, expected) == "file data: its bytes have changed"
    path.write_bytes(b"abc")
    assert "file data: 4 bytes were written, 3 are there" in checksums.damaged_file(
        tmp_path, expected
    )
    path.unlink()
    assert checksums.damaged_file(tmp_path, expected) == "file data is missing"
    path.mkdir()
    assert "file data" in checksums.damaged_file(tmp_path, expected)
    (tmp_path / "below").mkdir()
    path.rmdir()
    # A file in the place of the folder: an error of the system's, in words.
    nested = {"another/data": expected["data"]}
    assert "cannot be read: Not a directory" in checksums.damaged_file(tmp_path, nested)
