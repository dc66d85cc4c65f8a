"""The paper: no number in its text is the template's own, each is that of the results, and what is missing is said."""

import json
import re
import shutil

import pandas as pd
import pytest

from neuromf.report.paper import latex
from neuromf.report.paper.document import TEMPLATES, document, is_wide
from neuromf.report.paper.numbers import ABSENT, CLOSE, OPEN, Numbers
from neuromf.report.results import Results
from workflow_scripts import paper as script

RESULTS = ("abstract", "data", "results", "limitations", "reproducibility")  # sections whose templates hold no digit
NAMED = r"\\(?:ref|label|cite|includegraphics|input)(?:\[[^]]*\])?\{[^}]*\}"  # files and labels, which may hold digits
FLOATS = r"\\setcounter\{\w+\}\{\d+\}|\[width=[^]]*\]"  # numbers of figures, which are those of their files, and sizes
VALUES = {
    "cohort": {"source": "embedded"},
    "volumes": {"spacing_mm": 5.0, "shape": [32, 48, 32], "percentiles": [0.0, 99.5]},
    "vae": {"architecture": "compact", "weights": "packaged", "steps": 2},
    "samples": {"evaluations": [1, 4], "seed": 0},
}
SETTINGS = {
    "study": "small_study",
    "evaluations": [1, 4],
    "phases": [0, 1, 2, 3, 4, 5],
    "figures": {f"fig_{n}": "" for n in range(1, 9)} | {"fig_5": "the ablation lp is not active"},
    "tables": {f"table_{n}": "" for n in range(1, 5)},
}
PDF = b"%PDF-1.4\n1 0 obj << /MediaBox [ 0 0 WIDTH 100 ] >> endobj\n"
FINDING = (
    "ablation,question,metric,features,nfe,a,b,verdict,finding\nlp,difference,frechet,e,1,1.5,2.0,differs,p = 0.031\n"
)


def numbers(folder, **kind):
    return Numbers(Results(folder, "meanflow"), VALUES, **kind)


def section(folder, name):
    """A section with brackets around all that was looked up."""
    asked = numbers(folder, marked=True)
    return document(asked, SETTINGS, folder / "paper", name), asked


def own_digits(text):
    """Digits that the template itself has put into the text."""
    text = re.sub(r"(?<!\\)%.*", "", re.sub(f"{OPEN}[^{CLOSE}]*{CLOSE}", "", text))
    return re.findall(r".{0,20}\d.{0,20}", re.sub(f"{NAMED}|{FLOATS}", "", text))


@pytest.fixture
def study(small_study):
    """With findings, a table and two figures."""
    for folder in ("tables", "figures", "ablations", "paper"):
        (small_study / folder).mkdir()
    (small_study / "ablations" / "questions.csv").write_text(FINDING)
    (small_study / "tables" / "table_1.tex").write_text("\\begin{tabular}{lr}\nA & 1 \\\\\n\\end{tabular}\n\nA note.\n")
    for name, width in (("fig_3", b"504"), ("fig_4", b"252")):
        (small_study / "figures" / f"{name}.pdf").write_bytes(PDF.replace(b"WIDTH", width))
    return small_study


# --- every number is of the results ------------------------------------------------------------------


@pytest.mark.parametrize("name", RESULTS)
def test_no_digit_of_a_section_of_results_is_the_templates_own(study, name):
    text, asked = section(study, name)
    assert asked.told and own_digits(text) == []


def test_a_digit_of_a_template_would_be_seen(study):
    text, _ = section(study, "abstract")
    assert own_digits(text + " about 4 times as good") != []
    assert own_digits(text.replace(OPEN, "", 1).replace(CLOSE, "", 1)) != []


def test_every_printed_number_is_that_of_its_row(study):
    asked = numbers(study)
    document(asked, SETTINGS, study / "paper")
    table = pd.read_csv(study / "metrics" / "metrics.csv", dtype={"nfe": str}, keep_default_na=False)
    rows = [each for each in asked.told if each["source"] == "metrics/metrics.csv" and "run" in each["key"]]
    assert len(rows) > 20
    for each in rows:
        key = {name: value for name, value in each["key"].items() if name != "column"}
        (found,) = table[(table[list(key)] == pd.Series(key)).all(axis=1)].to_dict("records")
        wanted = float(found[each["key"].get("column", "value")])
        printed = float(each["text"].partition(" (")[0].replace(",", ""))
        assert each["value"] == wanted and printed == pytest.approx(wanted, rel=0.05, abs=1e-9), each


def test_changed_results_change_the_text(study):
    before = document(numbers(study), SETTINGS, study / "paper")
    path = study / "metrics" / "metrics.csv"
    path.write_text(path.read_text().replace("670.2,640,700", "123.4,120,127"))
    after = document(numbers(study), SETTINGS, study / "paper")
    assert "670 (640 to 700)" in before and "670 (640 to 700)" not in after and "123.4 (120.0 to 127.0)" in after


@pytest.mark.parametrize("a, b, words", [(1, "prior", "below"), (1, 4, "above"), ("test", "prior", "below")])
def test_sets_are_told_apart_by_their_intervals(study, a, b, words):
    assert numbers(study).versus("frechet", a, b) == words
    assert {numbers(study).versus("kid", *pair) for pair in ((1, "prior"), ("prior", 1))} == {"not told apart from"}


def test_findings_and_failed_gates_stand_in_the_text(study):
    results, _ = section(study, "results")
    limitations, _ = section(study, "limitations")
    assert f"{OPEN}p = 0.031{CLOSE}" in results and f"{OPEN}1.5 and 2.0{CLOSE}" in results
    assert "is blocked" in limitations and "1.012" in limitations


# --- what is missing ---------------------------------------------------------------------------------


def test_a_metric_that_was_not_measured_is_said_to_be_so(study):
    asked = numbers(study)
    assert asked.metric("pair_ms_ssim", "reconstruction") == ABSENT and asked.versus("kid", 1, "reconstruction") == ABSENT
    assert asked.missing == ["pair_ms_ssim at vae", "kid at 1 against vae"]
    text = document(asked, SETTINGS, study / "paper")
    assert ABSENT in text and "pair\\_ms\\_ssim at vae" in text


def test_a_number_that_stands_twice_is_an_error(study):
    path = study / "metrics" / "metrics.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(ValueError, match="frechet at 1 .* stands 2 times"):
        numbers(study).metric("frechet", 1)


def test_figures_and_tables_are_there_or_named_with_the_reason(study):
    asked = numbers(study)
    text = document(asked, SETTINGS, study / "paper")
    assert "{../figures/fig_3.pdf}" in text and "\\input{../tables/table_1.tex}" in text
    assert "\\absent{the ablation lp is not active}" in text and "\\absent{it was not made}" in text
    assert "fig_5: the ablation lp is not active" in asked.missing
    assert is_wide(asked, "fig_3") and not is_wide(asked, "fig_4") and not is_wide(asked, "fig_5")


def test_a_study_of_nothing_is_still_a_text_that_says_so(study):
    for path in ("metrics", "runs", "bench", "gates", "cohort", "toy", "ablations", "vae"):
        shutil.rmtree(study / path)
    asked = numbers(study, marked=True)
    text = document(asked, {**SETTINGS, "study": "none"}, study / "paper", "results")
    assert asked.told == [] and own_digits(text) == [] and text.count(ABSENT) > 20


# --- LaTeX -------------------------------------------------------------------------------------------


def test_text_of_the_results_is_escaped(study):
    path = study / "bench" / "generation-meanflow.csv"
    path.write_text(path.read_text().replace("a CPU", "CPU_1 & 100 %"))
    assert "CPU\\_1 \\& 100 \\%" in numbers(study).device()


def test_every_template_is_part_of_the_paper():
    whole = (TEMPLATES / "paper.tex.j2").read_text()
    parts = {path.name for path in TEMPLATES.glob("*.j2")} - {"paper.tex.j2", "macros.tex.j2"}
    assert parts == set(re.findall(r'include "([^"]+)"', whole))


def test_without_latex_the_text_is_written_and_the_way_to_get_it_said(study, monkeypatch, capsys):
    monkeypatch.setattr(latex.shutil, "which", lambda name: None)
    text, found = study / "paper" / "paper.tex", study / "paper" / "numbers.json"
    argv = ["--results", str(study), "--out", str(text), "--numbers", str(found)]
    script.main([*argv, "--config", json.dumps({**SETTINGS, "run": "meanflow", "values": VALUES})])
    assert text.read_text().startswith("% Made by the rule paper") and json.loads(found.read_text())["told"]
    assert "no LaTeX is installed" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="apt-get install"):
        latex.typeset(text, study / "paper.pdf")


@pytest.mark.skipif(latex.engine() is None, reason="no LaTeX is installed")
def test_the_paper_compiles_to_the_same_bytes_and_leaves_nothing_else(study):
    for name in ("fig_3", "fig_4"):
        (study / "figures" / f"{name}.pdf").unlink()
    text = study / "paper" / "paper.tex"
    text.write_text(document(numbers(study), SETTINGS, study / "paper"), encoding="utf-8")
    made = []
    for name in ("a.pdf", "b.pdf"):
        latex.typeset(text, study / name)
        made.append((study / name).read_bytes())
    assert made[0].startswith(b"%PDF") and made[0] == made[1]
    assert [path.name for path in (study / "paper").iterdir()] == ["paper.tex"]


@pytest.mark.skipif(latex.engine() is None, reason="no LaTeX is installed")
def test_a_text_that_latex_refuses_says_why_and_leaves_no_pdf(tmp_path):
    (tmp_path / "paper.tex").write_text("\\documentclass{article}\\begin{document}\\undefinedword\\end{document}")
    with pytest.raises(RuntimeError, match="Undefined control sequence"):
        latex.typeset(tmp_path / "paper.tex", tmp_path / "paper.pdf")
    assert not (tmp_path / "paper.pdf").exists()
