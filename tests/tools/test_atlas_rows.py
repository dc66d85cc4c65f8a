"""The table of features: every id once, outcomes of JUnit files, and a page that has every test of the repository."""

import re

from tools import atlas_rows

PAGE = """\
| A01 | c | loader | what | `tests/atlas/test_a.py` |
| A02 | c | scales | what | `tests/atlas/test_a.py` |
| A03 | i | pages | what | planned |
"""
JUNIT = """<testsuite>
<testcase classname="tests.atlas.test_a" name="test_A01_counts[x]"/>
<testcase classname="tests.atlas.test_a" name="test_A01_counts[y]"><skipped message="no data"/></testcase>
<testcase classname="tests.atlas.test_a" name="test_A01_A02_both"><failure message="no"/></testcase>
</testsuite>"""


def test_a_table_has_tests_outcomes_and_states(tmp_path):
    (tmp_path / "tests/atlas").mkdir(parents=True)
    text = "def test_A01_counts(): ...\ndef test_A01_A02_both(): ...\ndef test_A02_other(): ...\ndef test_none(): ...\n"
    (tmp_path / "tests/atlas/test_a.py").write_text(text)
    (tmp_path / "junit.xml").write_text(JUNIT)
    of = atlas_rows.tests(tmp_path)
    assert {name: [test.name for test in tests] for name, tests in of.items()} == {
        "A01": ["test_A01_counts", "test_A01_A02_both"], "A02": ["test_A01_A02_both", "test_A02_other"],
    }  # fmt: skip
    lines = list(atlas_rows.page(PAGE, of, atlas_rows.outcomes([tmp_path / "junit.xml"])))
    assert "| A01 | loader | FAIL | `test_a.py::test_A01_counts` | skipped: no data (1 of 2 cases) |" in lines
    assert "| A02 |  |  | `test_a.py::test_A02_other` | not run |" in lines
    assert "| A03 | pages | no test | planned | |" in lines
    assert any(line.startswith("3 features: 2 FAIL, 1 no test") for line in lines)
    passed = atlas_rows.outcomes([])
    assert atlas_rows.state(["passed", "skipped: no data"]) == "pass" and not passed
    assert atlas_rows.state(["passed", "not run"]) == "1 of 2 run" and atlas_rows.state(["skipped: x"]) == "skipped"


def test_the_page_has_every_feature_and_every_test_of_the_repository():
    page = (atlas_rows.ROOT / "docs/atlas_rows.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| (A\d\d) \|.*`(\w+\.py)::(\w+)`", page, re.M))
    of = atlas_rows.tests(atlas_rows.ROOT)
    expected = {(name, test.file.split("/")[-1], test.name) for name, tests in of.items() for test in tests}
    assert listed == expected, "docs/atlas_rows.md is stale: python -m tools.atlas_rows (see its docstring)"
    assert {row for row in re.findall(r"^\| (A\d\d) \|", page, re.M)} == {f"A{k:02d}" for k in range(1, 89)}
