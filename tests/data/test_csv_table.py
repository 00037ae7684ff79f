"""Tables of labels as people and spreadsheets write them."""

import os
import unicodedata

import pytest
from own_images import every_image, load, pixels, save, write

from thanos_jax.data.csv_table import read_table
from thanos_jax.data.prepared import DatasetNotFound
from thanos_jax.data.splits import DataError

ROWS = [
    {"filename": "a b/1.png", "label": "crème"},
    {"filename": "2.png", "label": "x; y, z"},
]


def table(separator=",", end="\n", quote='"{}"'):
    rows = [("filename", "label"), *((one["filename"], one["label"]) for one in ROWS)]
    return end.join(separator.join(map(quote.format, row)) for row in rows)


@pytest.mark.parametrize(
    "content",
    [
        table().encode(),
        table(";").encode(),
        table("\t", quote="{}").encode(),
        table(",", "\r\n").encode("utf-8-sig"),
        table(";", "\r").encode(),
        table("\t", "\r\n").encode("utf-16"),  # Excel's "Unicode text"
        b"sep=;\r\n" + table(";", "\r\n").encode(),
        table(",").replace("filename", "FileName").encode(),
        (table(";") + "\n;;;\n; \n\n").encode(),
        table().replace('"\n', '",,\n').encode() + b",,",
    ],
    ids=["comma", "semicolon", "tab", "bom", "cr", "utf-16", "sep", "case", "empty", "surplus"],
)
def test_tables_are_read_however_they_are_written(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    found = list(read_table(str(path), ("filename", "label")))
    assert [{name: cells[name] for name in ROWS[0]} for _, cells in found] == ROWS
    first = 3 if content.startswith(b"sep=") else 2
    assert [line for line, _ in found] == [first, first + 1]


def test_what_a_table_lacks_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"sep=;\nfilename;name\n")
    with pytest.raises(DataError, match=r"line 2: expected one column 'label', got .*'name'\]"):
        list(read_table(str(path), ("filename", "label")))
    path.write_bytes("filename;label\nä;b".encode("latin-1"))
    with pytest.raises(DataError, match=r"UTF-8, got .*; spreadsheets can save as CSV UTF-8"):
        list(read_table(str(path), ("filename", "label")))
    path.write_bytes(b"filename;label\n1;2;3")
    with pytest.raises(DataError, match=r"line 2: expected 2 cells .*, got 3"):
        list(read_table(str(path), ("filename", "label")))


def relabelled(root, change):
    path = root / "labels.csv"
    path.write_text(change(path.read_text()), encoding="utf-8")


def test_backslashes_and_one_label(tmp_path):
    expected = every_image(load(write(tmp_path)))
    relabelled(tmp_path, lambda text: text.replace("/", "\\").replace("coarse", "other"))
    with pytest.raises(DataError, match=r"expected one column 'coarse', got"):
        load(tmp_path)
    relabelled(tmp_path, lambda text: text.replace("fine", "label"))
    dataset = load(tmp_path)
    assert dataset.one_level
    assert every_image(dataset) == {image: (fine, fine) for image, (_, fine) in expected.items()}


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_names_in_any_normal_form(tmp_path, stored, written):
    write(tmp_path)
    folder, name = (unicodedata.normalize(stored, text) for text in ("Ñandú é", "ö ü.png"))
    (tmp_path / folder).mkdir()
    os.rename(tmp_path / "cat" / "0.png", tmp_path / folder / name)
    in_table = unicodedata.normalize(written, "Ñandú é/ö ü.png")
    label = unicodedata.normalize(written, "chat doré")
    relabelled(
        tmp_path,
        lambda text: text.replace("cat/0.png,pet,cat", f"{in_table},pet,chat doré").replace(
            "cat/1.png,pet,cat", f"cat/1.png,pet,{label}"
        ),
    )
    dataset = load(tmp_path)
    assert dataset.fine_names == ("cat", "chat doré", "cow", "dog")
    assert os.path.join(folder, name) in {
        file for split in dataset.splits.values() for file in split.names
    }


def test_two_spellings_of_one_file_are_one_file(tmp_path):
    write(tmp_path)
    os.rename(tmp_path / "cat" / "0.png", tmp_path / "cat" / "é.png")
    decomposed = unicodedata.normalize("NFD", "cat\\é.png")
    relabelled(
        tmp_path,
        lambda text: text.replace("cat/0.png", "cat/é.png").replace("cat/1.png", decomposed),
    )
    with pytest.raises(DataError, match=r"line 3: filename: 'cat/é\.png' is listed before, in l"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cat/3.png", "Cat/3.PNG", r"line 5: no file .*; there is 'cat/3\.png', spelt differently"),
        ("cat/3.png", "cat/3.jpg", r"line 5: no file .*cat/3\.jpg; there is 'cat/3\.png'"),
        ("cat/3.png", "cat/3", r"line 5: no file .*cat/3; there is 'cat/3\.png'"),
        ("cat/3.png", "kitten/3.png", r"line 5: no file .*kitten/3\.png$"),
    ],
)
def test_files_that_are_not_there_are_named_with_those_that_are(tmp_path, old, new, message):
    write(tmp_path)
    relabelled(tmp_path, lambda text: text.replace(old, new))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_table_of_another_name_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("filename,label\n")
    with pytest.raises(DatasetNotFound, match=r"labels\.csv, .*, which has 'train\.csv'"):
        load(tmp_path)


def test_upper_case_endings_and_names_of_files(tmp_path):
    write(tmp_path)
    save(tmp_path / "cat" / "0 (copy).JPG.PNG", pixels(1))
    (tmp_path / "cat" / "0.png").unlink()
    relabelled(tmp_path, lambda text: text.replace("cat/0.png", "cat/0 (copy).JPG.PNG"))
    dataset = load(tmp_path)
    names = {split: part.names.tolist() for split, part in dataset.splits.items()}
    every = sorted(name for part in names.values() for name in part)
    assert every == sorted(
        ["cat/0 (copy).JPG.PNG", *(f"cat/{n}.png" for n in range(1, 10)),
         *(f"{fine}/{n}.png" for fine in ("dog", "cow") for n in range(10))]
    )  # fmt: skip
    streamed = load(tmp_path, memory_limit_gib=0.0)
    assert {split: part.names.tolist() for split, part in streamed.splits.items()} == names
