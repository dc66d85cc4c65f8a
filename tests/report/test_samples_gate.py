"""Gate 5 on the report page and the model card: its failed critical criteria come first, and block nothing else."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
from report.report_study import put, put_study, render

from neuromf.report.release import model_card
from neuromf.report.results import Results
from neuromf.report.samples_gate import blocked_paragraph
from neuromf.workflow.criteria import read_criteria
from neuromf.workflow.gates import evaluate_gate
from neuromf.workflow.phases import inherited_phase

ROOT = Path(__file__).resolve().parents[2]
PASSING = {"P5-T1": 1.0, "P5-T2": 0.46419, "P5-T3": 0.92, "P5-T5": 6.67}  # P5-T5 fails, and is informational
FAILING = PASSING | {"P5-T2": 1.25, "P5-T3": 0.61}
SENTENCES = (
    "Gate 5 is blocked: the generated volumes fail 2 of 3 critical criteria. P5-T2, Fréchet distance of one-step "
    "samples, relative to blurred test participants: measured 1.25, required at most 1. P5-T3, MS-SSIM of one-step "
    "samples to the nearest training volume: measured 0.61, required at least 0.7."
)
BLOCKED_BEFORE = {"phase": 4, "status": "BLOCKED"}


def put_gate(root, values, previous=None):
    measured = [{"id": name, "value": value, "source": "results/runs/x.csv"} for name, value in values.items()]
    gate = evaluate_gate(measured, read_criteria({}, []), phase=5, study="small", previous=previous)
    put(root / "gates/phase_5.json", gate)


def first_paragraph(html):
    """The first paragraph of the page, without its tags."""
    main = html[html.index("<main>") :]
    return unescape(re.sub(r"<[^>]+>", "", re.search(r"<p\b[^>]*>(.*?)</p>", main, re.S)[1])).strip()


def paragraph_of_card(root):
    """The first paragraph of the model card, and the card."""
    decoder = {"included": True, "weights": "packaged", "steps": 0}
    sampling = {"nfe": 1, "seed": 0, "sampler": "meanflow", "batch": 4, "spacing_mm": 5.0, "precision": "float32"}
    about = {"study": "small", "source": "embedded", "spacing_mm": 5.0, "nfe": [1, 4], "n_samples": 8, "threads": 1,
             "sampling": sampling, "decoder": decoder, "shape": [32, 48, 32], "code": "abc"}  # fmt: skip
    card = model_card.card(Results(root, "meanflow"), about=about, phases=range(6))
    return model_card.markdown(card, "").split("\n\n")[1].strip(), card


@pytest.fixture
def page(tmp_path):
    def make(*gate):
        put_study(tmp_path / "results")
        if gate:
            put_gate(tmp_path / "results", *gate)
        return render(tmp_path / "results")

    return make


def test_a_failed_gate_5_is_the_first_paragraph_of_the_page(page):
    html = page(FAILING)
    assert first_paragraph(html) == SENTENCES
    assert html.count('class="warning"') == 1


@pytest.mark.parametrize("gate", [(PASSING,), ()])
def test_without_a_failed_gate_5_the_page_opens_with_the_study(page, gate):
    html = page(*gate)
    assert "9 of 10 scans were accepted" in " ".join(first_paragraph(html).split())
    assert "Gate 5 is blocked" not in html and 'class="warning"' not in html


def test_a_failed_gate_5_is_the_first_paragraph_of_the_model_card(small_study):
    put_gate(small_study, FAILING)
    paragraph, card = paragraph_of_card(small_study)
    assert paragraph == SENTENCES == card["blocked"]


def test_an_open_gate_5_does_not_appear_on_the_model_card(small_study):
    put_gate(small_study, PASSING)
    paragraph, card = paragraph_of_card(small_study)
    assert paragraph.startswith("A generator of 3D T1-weighted brain MRI") and card["blocked"] == ""


def test_the_paragraph_names_a_blocked_gate_before_and_values_that_are_not_finite(tmp_path):
    put_gate(tmp_path, FAILING | {"P5-T3": float("nan")}, BLOCKED_BEFORE)
    text = blocked_paragraph(Results(tmp_path, "meanflow"))
    assert "measured nan, required at least 0.7." in text and text.endswith("The gate of phase 4 is blocked.")
    put_gate(tmp_path, PASSING, BLOCKED_BEFORE)
    text = blocked_paragraph(Results(tmp_path, "meanflow"))
    assert text == (
        "Gate 5 is blocked: the generated volumes pass all of 3 critical criteria. The gate of phase 4 is blocked."
    )


def test_gate_5_blocks_no_other_gate_and_stops_no_stage():
    phases = [*range(7), 8]
    assert [inherited_phase(phase, phases) for phase in phases] == [None, 0, 1, 2, 3, 4, 4, 6]
    rules = "".join(path.read_text() for path in ROOT.glob("rules/*.smk"))
    waiting = re.findall(r"^        gate=(.*)$", rules, re.M)
    assert waiting and all(re.fullmatch(r'ancient\("results/gates/phase_[0-4]\.json"\),', gate) for gate in waiting)


def test_the_paragraph_holds_what_the_gate_file_holds(tmp_path):
    put_gate(tmp_path, FAILING)
    text = blocked_paragraph(Results(tmp_path, "meanflow"))
    failed = [row for row in json.loads((tmp_path / "gates/phase_5.json").read_text())["rows"] if not row["passed"]]
    assert [row["id"] in text for row in failed] == [row["kind"] == "critical" for row in failed]
    assert len(failed) == 3
