"""Manuscript: numbers come from result files alone, missing ones are named; figure F7."""

import json
import re

import pytest

from neuromf.core.files import write_json
from neuromf.report.atlas import manuscript

ROW = {"value": 0.0612, "low": 0.0451, "high": 0.0799}


@pytest.fixture
def written(tmp_path):
    """Manuscript of a few results, and its list of numbers."""
    (tmp_path / "studies").mkdir()
    splits = {"train": 70, "val": 15, "test": 15}
    write_json(tmp_path / "studies/scale.json", {"scale": "mock", "n_studies": 100, "n_foci": 2718, "splits": splits})
    results = {"bits": {"conditional": {"difference": ROW, "n_studies": 15}}}
    write_json(tmp_path / "test_results.json", results)
    (tmp_path / "onnx").mkdir()
    write_json(tmp_path / "onnx/models.json", {"scale": "mock", "bound": 1e-4})
    (tmp_path / "points.pdf").touch()
    manuscript.write_manuscript(
        inputs=[tmp_path / "test_results.json", tmp_path / "onnx"], figures=[tmp_path / "points.pdf"],
        studies=tmp_path / "studies", out=tmp_path / "paper/manuscript.tex", numbers=tmp_path / "numbers.json",
    )  # fmt: skip
    return (
        (tmp_path / "paper/manuscript.tex").read_text(),
        json.loads((tmp_path / "numbers.json").read_text()),
        tmp_path,
    )


@pytest.mark.informational
def test_A60_numbers_are_those_of_the_results_with_their_source(written):
    text, numbers, folder = written
    assert "0.061 [0.045, 0.080] bits per focus" in text and "100 studies" in text and "2718 foci" in text
    row = next(one for one in numbers["printed"] if one["place"] == "bits.conditional.difference")
    assert row["value"] == ROW and row["file"] == str(folder / "test_results.json")
    assert "at most 0.0001" in text and "../points.pdf" in text and "Mock data" in text


@pytest.mark.informational
def test_A60_what_was_not_measured_is_named_and_no_number_stands_in_the_template(written):
    text, numbers, _ = written
    assert "prior: bits.difference" in numbers["missing"] and r"\notmeasured{}" in text
    assert {"figure F4", "figure F6", "figure F8"} <= set(numbers["missing"]) and "figure F5" not in numbers["missing"]
    template = (manuscript.TEMPLATES / "manuscript.tex.j2").read_text()
    body = template[template.index(r"\begin{abstract}") : template.index("<% set captions")]
    plain = re.sub(
        r"<<.*?>>|<%.*?%>|95\\,\\%|MNI152|ODbL 1\.0|version 7|N\(0, I\)|fig_\d|[lt]b?p", "", body, flags=re.S
    )
    assert not re.findall(r"\d", plain)
    assert text.count(r"\begin{figure}") == 8 and text.count("not drawn in this study") == 7


@pytest.mark.informational
def test_A60_results_of_another_scale_are_refused(written):
    _, _, folder = written
    write_json(folder / "prior.json", {"scale": "full"})
    with pytest.raises(ValueError, match="scales must not be mixed"):
        manuscript.write_manuscript(inputs=[folder / "prior.json"], figures=[], studies=folder / "studies",
                                    out=folder / "m.tex", numbers=folder / "n.json")  # fmt: skip
