"""Model card and page of the growth system: every number is that of a result file, and missing parts are named."""

import json
import re

import pytest
from PIL import Image

from neuromf.report.growth import card as growth_card
from neuromf.report.growth.page import write_growth_page
from neuromf.report.growth.section import section
from neuromf.report.results import Results

ABOUT = {"study": "small", "scale": "ci", "simulated": "Simulated growth in generated anatomy", "spacing_mm": 8.0,
         "code": "abc"}  # fmt: skip
EARNED = {"model": "M10", "reference": "M4r", "protocol": "last_from_rest", "gain": 0.1234, "low": 0.05, "high": 0.2,
          "p": 0.013, "earned": True}  # fmt: skip
WORSE = EARNED | {"model": "M11", "gain": -0.21, "low": -0.3, "high": -0.1, "p": 0.0002, "earned": False}
SCORES = "protocol,horizon,model,title,n,r2,skill,mae,cov95,is95\n"
LAST = "last_from_rest,all,M1,LOCF,40,0.934,0,0.161,0.93,0.87\nall_from_first,all,M1,LOCF,90,0.777,0,0.3,0.9,0.9\n"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def growth(tmp_path):
    """Results of a growth system in which all parts were measured but the real volumes."""
    root = tmp_path / "growth"
    for split, n in (("train", 4), ("val", 2), ("test", 3)):
        rows = [f"s{k},p{k // 2}" for k in range(n)]
        write(root / f"index/{split}.csv", "\n".join(["id,patient", *rows]))
    scores = {"r2_vol": 0.71, "r2_bright_voxels": 0.59, "r2_loc": 0.8, "r2_shape": -0.2, "ode_readiness": 0.5,
              "grade": "C", "traversal_spearman": 0.9, "n_test_patients": 24}  # fmt: skip
    volume = {"r2_vol_probe": 0.7123, "r2_vol_probe_low": 0.6, "r2_vol_probe_high": 0.8, "volume_gain": -0.05,
              "volume_gain_low": -0.11, "volume_gain_high": -0.01, "volume_gain_p": 0.04}  # fmt: skip
    lines = [",".join(["experiment", *scores])]
    for name in ("exp1", "exp2", "exp3"):
        write(root / f"disentanglement/{name}.json", scores | volume)
        write(root / f"gates/{name}.json", {"status": "OPEN", "rows": []})
        write(root / f"runs/{name}/provenance.json", {"seconds": 321.5, "peak_mb": 900, "device": "a CPU"})
        lines.append(",".join([name, *map(str, scores.values())]))
    write(root / "tables/disentanglement.csv", "\n".join(lines))
    for name in ("gompertz", "treated"):
        write(
            root / f"ladder/{name}/study.json", {"verdicts": [EARNED, WORSE, EARNED | {"protocol": "all_from_first"}]}
        )
        write(root / f"ladder/{name}/scores.csv", SCORES + LAST)
    write(root / "ladder/volume_latent/study.json", {"verdicts": [], "over_locf": [EARNED | {"reference": "M1"}]})
    write(root / "tables/latent_forecast.csv", "model,title,n,skill_latent,skill_measured\nM10,ODE,24,0.31,0.6\n")
    row = {"kind": "ODE", "reference": "last mask", "gain": -0.4, "low": -0.5, "high": -0.3, "p": 0.0001,
           "outcome": "is worse than"}  # fmt: skip
    images = {"dice": {"ODE": 0.31, "last mask": 0.71}, "log_volume_error": {"ODE": 0.6, "last mask": 0.2},
              "comparisons": [row], "statement": "It is worse."}  # fmt: skip
    write(root / "forecast/images.json", images)
    (root / "figures").mkdir()
    Image.new("RGB", (40, 30), "grey").save(root / "figures/fig_4.png")
    write(root / "figures/fig_4.json", {"simulated": "Simulated volumes"})
    return tmp_path


def content(root):
    return growth_card.card(Results(root, ""), **ABOUT)


@pytest.mark.critical
def test_G72_verdicts_of_the_card_are_those_of_the_results(growth):
    found = {row["question"]: row for row in content(growth)["verdicts"]}
    row = found["Gompertz growth: ODE over reduced NLME (M10)"]
    assert {key: row[key] for key in ("value", "low", "high", "p")} == {
        "value": 0.1234, "low": 0.05, "high": 0.2, "p": 0.013}  # fmt: skip
    assert row["answer"] == "earned" and row["source"] == "growth/ladder/gompertz/study.json"
    assert found["Gompertz growth: ODE over reduced NLME (M11)"]["answer"] == "no, it is worse"
    assert found["volume latent: ODE over LOCF (M10)"]["answer"] == "earned"
    assert found["is ln V readable from the supervised latent, in unseen anatomies?"]["answer"] == "yes"
    assert found["is it read better than by a count of bright t1c voxels?"]["answer"] == "no, worse"
    assert found["future image: decoded forecast (ODE) over last mask"]["answer"] == "is worse than the last mask"
    assert len(found) == 8  # forecasts from the first visit alone are no verdict


@pytest.mark.critical
def test_G72_the_card_states_that_data_are_simulated_intended_use_limits_and_numbers(growth):
    growth_card.write_card(results=Results(growth, ""), out=growth / "card.json", page=growth / "card.md", **ABOUT)
    text = (growth / "card.md").read_text()
    assert "**Simulated growth in generated anatomy.**" in text and "Not for diagnosis" in text and "## Limits" in text
    assert "0.123 (0.050 to 0.200), p = 0.013" in text and "-0.210 (-0.300 to -0.100), p < .001" in text
    assert "train: 4 scans of 2 patients" in text and "| exp3, supervised parts | 0.71 | 0.59 |" in text
    assert "| LOCF | 40 | 0.93 |" in text and "0.777" not in text and "| ODE | 0.31 | 0.60 |" in text
    assert "Voxels of 8 mm: a tumour of 1 ml has 1.95" in text and "exp1: 322 s" in text
    assert json.loads((growth / "card.json").read_text())["verdicts"]


@pytest.mark.critical
def test_G72_what_was_not_measured_is_named_with_its_rule(growth, tmp_path):
    assert content(growth)["missing"] == ["forecasts of real volumes (rule growth_real_ladder)"]
    (growth / "growth/forecast/images.json").unlink()
    (growth / "growth/gates/exp2.json").unlink()
    assert content(growth)["missing"] == [
        "forecasts of images (rule growth_image_forecast)", "forecasts of real volumes (rule growth_real_ladder)",
        "gates (rule growth_gate)"]  # fmt: skip
    empty = content(tmp_path / "nothing")
    assert empty["verdicts"] == [] and len(empty["missing"]) == len(growth_card.MEASURED_BY)


def test_no_number_of_the_templates_is_typed():
    template = (growth_card.TEMPLATES / "card.md.j2").read_text()
    text = re.sub(r"{[{%].*?[%}]}", "", template, flags=re.S)
    allowed = {"2", "0", "05", "95", "1", "3", "2009", "2017", "2022", "2.0", ".05"}
    assert set(re.findall(r"(?<![\w.])\.?\d+(?:\.\d+)?", text)) <= allowed


def test_the_section_has_verdicts_tables_figures_and_reasons(growth):
    found = section(Results(growth, ""), ABOUT)
    assert len(found["verdicts"].rows) == 8 and len(found["experiments"].rows) == 3 and len(found["images"].rows) == 2
    assert [title for title, _ in found["volumes"]] == ["Gompertz growth", "growth interrupted by treatment"]
    by_name = {one["name"]: one for one in found["figures"]}
    assert by_name["growth_fig_4"]["picture"] and "<em>Simulated volumes.</em>" in by_name["growth_fig_4"]["caption"]
    assert (
        by_name["growth_headline"]["picture"] is None
        and by_name["growth_headline"]["reason"] == "run the rule growth_headline"
    )


def test_a_study_without_growth_has_no_section(tmp_path):
    assert section(Results(tmp_path, ""), ABOUT) is None
    with pytest.raises(ValueError, match="no result of the growth system .* run snakemake growth"):
        write_growth_page(results=Results(tmp_path, ""), out=tmp_path / "report.html", about=ABOUT)


def test_the_growth_page_is_self_contained_and_names_sources(growth):
    write_growth_page(results=Results(growth, ""), out=growth / "report.html", about=ABOUT)
    html = (growth / "report.html").read_text()
    assert "Simulated growth in generated anatomy: images and volumes are simulated" in html
    assert 'data-from="growth/index/train.csv patients">2</data>' in html and "It is worse." in html
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html) and "default-src 'none'" in html
