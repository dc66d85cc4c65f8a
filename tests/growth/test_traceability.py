"""Every feature of docs/growth_criteria.md has a test that carries its id, or is planned."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/growth_criteria.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| (G\d\d) \| ([ci]) \| .* \| (.*) \|$", PAGE, re.M)}
DONE = [*range(1, 89)]


def files_of(name):
    """Files below tests/growth with a test of this feature."""
    found = {path for path in ROOT.glob("tests/growth/test_*.py") if f"def test_{name}_" in path.read_text()}
    return sorted(str(path.relative_to(ROOT)) for path in found)


def test_the_table_has_every_id_once():
    assert list(ROWS) == [f"G{number:02d}" for number in range(1, 89)]


def test_no_other_feature_is_planned():
    planned = [name for name, (_, tests) in ROWS.items() if tests == "planned"]
    assert planned == [name for name in ROWS if int(name[1:]) not in DONE]


@pytest.mark.parametrize("name", [f"G{number:02d}" for number in DONE])
def test_a_feature_names_the_files_of_its_tests(name):
    assert files_of(name) == sorted(re.findall(r"`(tests/growth/\w+\.py)`", ROWS[name][1])) != []


def test_ids_of_tests_are_those_of_the_table():
    ids = {name for path in ROOT.glob("tests/growth/test_*.py")
           for name in re.findall(r"def test_(G\d\d)_", path.read_text())}  # fmt: skip
    assert ids <= ROWS.keys()


def test_tests_are_marked_as_the_table_has_it(request):
    for item in request.session.items:
        if found := re.match(r"test_(G\d\d)_", item.name):
            kind = {"c": "critical", "i": "informational"}[ROWS[found[1]][0]]
            assert item.get_closest_marker(kind), item.name
