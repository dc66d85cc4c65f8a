"""Every feature of docs/atlas_criteria.md has a test that carries its id, or is planned."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/atlas_criteria.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| (A\d\d) \| ([ci]) \| .* \| (.*) \|$", PAGE, re.M)}
TESTS = sorted(ROOT.glob("tests/atlas/test_*.py"))


def ids_of(path):
    """Ids of the features that a file tests; a test of several carries all of them."""
    names = re.findall(r"def test((?:_A\d\d)+)_", path.read_text(encoding="utf-8"))
    return {name for found in names for name in found.strip("_").split("_")}


def test_the_table_has_every_id_once():
    assert list(ROWS) == [f"A{number:02d}" for number in range(1, 89)]


@pytest.mark.parametrize("name", ROWS)
def test_a_feature_names_the_files_of_its_tests_or_is_planned(name):
    files = [str(path.relative_to(ROOT)) for path in TESTS if name in ids_of(path)]
    named = re.findall(r"`(tests/atlas/\w+\.py)`", ROWS[name][1])
    assert files == sorted(named)
    assert named or ROWS[name][1] == "planned"


def test_ids_of_tests_are_those_of_the_table():
    assert set().union(*map(ids_of, TESTS)) <= ROWS.keys()


def test_tests_are_marked_as_the_table_has_it(request):
    for item in request.session.items:
        if found := re.match(r"test_(A\d\d)_", item.name):
            kind = {"c": "critical", "i": "informational"}[ROWS[found[1]][0]]
            assert item.get_closest_marker(kind), item.name
