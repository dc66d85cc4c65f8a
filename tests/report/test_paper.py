"""The paper: every number is looked up in the results, and missing values are named."""

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

RESULTS = ("abstract", "data", "results", "limitations", "reproducibility")  # templates without digits
NAMED = (
    r"\\(?:ref|label|cite|includegraphics|input)(?:\[[^]]*\])?\{[^}]*\}"  # files and labels, which may contain digits
)
FLOATS = r"\\setcounter\{\w+\}\{\d+\}|\[width=[^]]*\]"  # numbers of figures, and sizes
CONFIG = {
    "cohort": {"source": "embedded"},
    "volumes": {"spacing_mm": 5.0, "shape": [32, 48, 32], "percentiles": [0.0, 99.5]},
    "autoencoder": {"architecture": "compact", "weights": "packaged", "steps": 2},
    "samples": {"nfe": [1, 4], "seed": 0},
}
PHASES = [0, 1, 2, 3, 4, 5]
FIGURES = {f"fig_{n}": "" for n in range(1, 9)} | {"fig_5": "the ablation lp is not active"}
TABLES = {f"table_{n}": "" for n in range(1, 5)}
PDF = b"%PDF-1.4\n1 0 obj << /MediaBox [ 0 0 WIDTH 100 ] >> endobj\n"
FINDING = (
    "ablation,question,metric,features,nfe,a,b,verdict,finding\nlp,difference,frechet,e,1,1.5,2.0,differs,p = 0.031\n"
)


def numbers(folder, **options):
    return Numbers(Results(folder, "meanflow"), CONFIG, **options)


def render(lookups, folder, template="paper", study="small_study"):
    return document(lookups, study, PHASES, FIGURES | TABLES, folder / "paper", template)


def section(folder, name):
    """A section with brackets around looked-up values."""
    lookups = numbers(folder, marked=True)
    return render(lookups, folder, name), lookups


def own_digits(text):
    """Digits that the template contains."""
    text = re.sub(r"(?<!\\)%.*", "", re.sub(f"{OPEN}[^{CLOSE}]*{CLOSE}", "", text))
    return re.findall(r".{0,20}\d.{0,20}", re.sub(f"{NAMED}|{FLOATS}", "", text))


@pytest.fixture
def study(small_study):
    """Results with findings, a table and two figures."""
    for folder in ("tables", "figures", "ablations", "paper"):
        (small_study / folder).mkdir()
    (small_study / "ablations" / "questions.csv").write_text(FINDING)
    (small_study / "tables" / "table_1.tex").write_text("\\begin{tabular}{lr}\nA & 1 \\\\\n\\end{tabular}\n\nA note.\n")
    for name, width in (("fig_3", b"504"), ("fig_4", b"252")):
        (small_study / "figures" / f"{name}.pdf").write_bytes(PDF.replace(b"WIDTH", width))
    return small_study


@pytest.mark.parametrize("name", RESULTS)
def test_section_templates_contain_no_digits(study, name):
    text, lookups = section(study, name)
    assert lookups.printed and own_digits(text) == []


def test_a_digit_of_a_template_is_detected(study):
    text, _ = section(study, "abstract")
    assert own_digits(text + " about 4 times as good") != []
    assert own_digits(text.replace(OPEN, "", 1).replace(CLOSE, "", 1)) != []


def test_every_printed_number_equals_its_row(study):
    lookups = numbers(study)
    render(lookups, study)
    table = pd.read_csv(study / "metrics" / "metrics.csv", dtype={"nfe": str}, keep_default_na=False)
    metrics = [each for each in lookups.printed if each["source"] == "metrics/metrics.csv" and "run" in each["key"]]
    assert len(metrics) > 20
    for each in metrics:
        column = each["key"].pop("column", "value")
        key = {name: "" if value is None else str(value) for name, value in each["key"].items()}
        (row,) = table[(table[list(key)] == pd.Series(key)).all(axis=1)].to_dict("records")
        printed, expected = float(each["text"].partition(" (")[0].replace(",", "")), float(row[column])
        assert each["value"] == expected and printed == pytest.approx(expected, rel=0.05, abs=1e-9), each


def test_changed_results_change_the_text(study):
    before = render(numbers(study), study)
    path = study / "metrics" / "metrics.csv"
    path.write_text(path.read_text().replace("670.2,640,700", "123.4,120,127"))
    after = render(numbers(study), study)
    assert "670 (640 to 700)" in before and "670 (640 to 700)" not in after and "123.4 (120.0 to 127.0)" in after


@pytest.mark.parametrize(
    "a, b, text", [(1, "prior", "lower than"), (1, 4, "higher than"), ("test", "prior", "lower than")]
)
def test_sets_are_compared_by_their_intervals(study, a, b, text):
    assert numbers(study).versus("frechet", a, b) == text
    assert {numbers(study).versus("kid", *pair) for pair in ((1, "prior"), ("prior", 1))} == {
        "not distinguishable from"
    }


def test_findings_and_failed_gates_are_printed(study):
    results, _ = section(study, "results")
    limitations, _ = section(study, "limitations")
    assert f"{OPEN}p = 0.031{CLOSE}" in results and f"{OPEN}1.5 and 2.0{CLOSE}" in results
    assert "is blocked" in limitations and "1.012" in limitations


def test_a_missing_metric_is_named(study):
    lookups = numbers(study)
    assert lookups.metric("pair_ms_ssim", "prior") == ABSENT and lookups.versus("kid", 1, "test") == ABSENT
    assert lookups.missing == ["pair_ms_ssim at prior", "kid at 1 against test"]
    text = render(lookups, study)
    assert ABSENT in text and "pair\\_ms\\_ssim at prior" in text


def test_a_metric_that_is_measured_twice_is_an_error(study):
    path = study / "metrics" / "metrics.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(ValueError, match="frechet of 1 .* has 2 rows"):
        numbers(study).metric("frechet", 1)


def test_figures_and_tables_are_included_or_named_with_the_reason(study):
    lookups = numbers(study)
    text = render(lookups, study)
    assert "{../figures/fig_3.pdf}" in text and "\\input{../tables/table_1.tex}" in text
    assert "\\absent{the ablation lp is not active}" in text and "\\absent{not generated yet}" in text
    assert "fig_5: the ablation lp is not active" in lookups.missing
    figures = study / "figures"
    assert is_wide(figures / "fig_3.pdf") and not is_wide(figures / "fig_4.pdf") and not is_wide(None)


def test_a_study_without_results_gives_a_text_without_numbers(study):
    for path in ("metrics", "runs", "bench", "gates", "cohort", "toy", "ablations", "vae"):
        shutil.rmtree(study / path)
    lookups = numbers(study, marked=True)
    text = render(lookups, study, "results", study="none")
    assert lookups.printed == [] and own_digits(text) == [] and text.count(ABSENT) > 20


def test_text_of_the_results_is_escaped(study):
    path = study / "bench" / "generation-meanflow.csv"
    path.write_text(path.read_text().replace("a CPU", "CPU_1 & 100 %"))
    assert "CPU\\_1 \\& 100 \\%" in numbers(study).device()


def test_every_template_is_part_of_the_paper():
    paper = (TEMPLATES / "paper.tex.j2").read_text()
    parts = {path.name for path in TEMPLATES.glob("*.j2")} - {"paper.tex.j2", "macros.tex.j2"}
    assert parts == set(re.findall(r'include "([^"]+)"', paper))


def test_without_latex_the_text_is_written_and_the_installation_is_explained(study, monkeypatch, capsys):
    monkeypatch.setattr(latex.shutil, "which", lambda name: None)
    text, found = study / "paper" / "paper.tex", study / "paper" / "numbers.json"
    monkeypatch.chdir(study.parent)
    sections = {name: section for name, section in CONFIG.items() if name != "samples"}
    config = {**sections, "meanflow": {"samples": CONFIG["samples"]}}
    settings = {"study": "small", "run": "meanflow", "phases": PHASES, "figures": FIGURES, "tables": TABLES}
    argv = ["--inputs", "results", "--out", str(text), "--numbers", str(found)]
    script.main([*argv, "--config", json.dumps({**settings, "config": config})])
    assert text.read_text().startswith("% Generated by the rule paper") and json.loads(found.read_text())["numbers"]
    assert "LaTeX is not installed" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="apt-get install"):
        latex.typeset(text, study / "paper.pdf")


@pytest.mark.skipif(latex.engine() is None, reason="LaTeX is not installed")
def test_the_paper_compiles_reproducibly_without_leftovers(study):
    for name in ("fig_3", "fig_4"):
        (study / "figures" / f"{name}.pdf").unlink()
    text = study / "paper" / "paper.tex"
    text.write_text(render(numbers(study), study), encoding="utf-8")
    pdfs = []
    for name in ("a.pdf", "b.pdf"):
        latex.typeset(text, study / name)
        pdfs.append((study / name).read_bytes())
    assert pdfs[0].startswith(b"%PDF") and pdfs[0] == pdfs[1]
    assert [path.name for path in (study / "paper").iterdir()] == ["paper.tex"]


@pytest.mark.skipif(latex.engine() is None, reason="LaTeX is not installed")
def test_a_latex_error_is_reported_and_no_pdf_is_written(tmp_path):
    (tmp_path / "paper.tex").write_text("\\documentclass{article}\\begin{document}\\undefinedword\\end{document}")
    with pytest.raises(RuntimeError, match="Undefined control sequence"):
        latex.typeset(tmp_path / "paper.tex", tmp_path / "paper.pdf")
    assert not (tmp_path / "paper.pdf").exists()
