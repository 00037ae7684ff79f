"""The README: short, and every number in it stands in a page that says how it was measured."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = README.partition("| measured | command |")[2].partition("\n\n")[0]
MEASURED = "".join(
    (ROOT / "docs" / page).read_text(encoding="utf-8")
    for page in ("results.md", "groups.md", "scaling.md")
)


def test_it_is_short():
    assert len(README.splitlines()) < 120


def test_every_number_of_its_table_was_measured():
    found = re.findall(r"(\d+\.\d+ ± \d\.\d+)", TABLE)
    assert len(found) > 6
    for number in found:
        assert number in MEASURED, number
    costs = re.findall(r"(\d\.\d\d) s and ([\d,]+) MB", TABLE)
    (row,) = re.findall(r"\| 8,192 \|(.*)\|(.*)\|(.*)\|.*\|(.*)\|", MEASURED)
    seconds = [f"{float(re.sub('[^0-9]', '', cell)) / 1000:.2f}" for cell in row[:3]]
    dense, streaming, peer = zip(seconds, row[3].removesuffix(" MB ").split(", "), strict=True)
    assert costs == [(second, size.strip()) for second, size in (streaming, dense, peer)]


def test_every_row_of_its_table_has_a_command():
    rows = TABLE.strip().splitlines()[1:]
    assert len(rows) > 6
    for row in rows:
        assert re.search(r"`(thanos-jax \w+|python benchmarks/\w+\.py)", row), row
