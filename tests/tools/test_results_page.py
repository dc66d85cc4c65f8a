"""The generated results page and the table of README."""

import pytest

from neuromf.report.results import Results
from neuromf.report.tables.style import number
from tools import results_page


def test_every_metric_is_printed_with_its_interval(small_study, capsys):
    results_page.main([str(small_study)])
    lines = capsys.readouterr().out.splitlines()
    results = Results(small_study, "meanflow")
    labels = {1: "samples, NFE 1", 4: "samples, NFE 4", "prior": "prior alone", "test": "test participants"}
    for which, label in labels.items():
        row = results.row("frechet", which)
        (line,) = [line for line in lines if line.startswith("|") and label in line]
        assert number(row["value"], row["low"], row["high"]) in line
    text = "\n".join(lines)
    assert "P4-T6 EMA over online: 1.012, required <= 1" in text and "a CPU, float32" in text and "0.0731" in text
    assert "## Lesions\n\nNot in this study." in text


def test_all_rows_of_a_table_have_the_columns_of_its_header(small_study):
    for section in results_page.page(Results(small_study, "meanflow")):
        if section.startswith("|"):
            assert len({line.count(" | ") for line in section.splitlines()}) == 1


def test_the_table_of_the_readme_is_replaced_between_its_comments(small_study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("Before.\n<!-- results -->\nold\n<!-- /results -->\nAfter.\n")
    for _ in range(2):
        results_page.main([str(small_study), "--readme", str(readme)])
        text = readme.read_text()
        assert text.startswith("Before.\n<!-- results -->\n") and text.endswith("<!-- /results -->\nAfter.\n")
        assert "old" not in text and text.count("670 (640 to 700)") == 1 and "560 (530 to 590)" in text
    readme.write_text("no comments")
    with pytest.raises(SystemExit, match="no table between <!-- results -->"):
        results_page.main([str(small_study), "--readme", str(readme)])
