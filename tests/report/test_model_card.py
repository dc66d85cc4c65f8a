"""The model card: numbers from the results of the run, licences of data and weights, and missing values."""

import json
import shutil

import pytest

from neuromf.metrics.table import read_rows, select_set
from neuromf.report.release import model_card, package
from neuromf.report.results import Results

OURS = {"included": True, "weights": "packaged", "steps": 0}
THEIRS = {"included": False, "weights": "published", "steps": 0, "file": "autoencoder_v2.pt", "sha256": "ab" * 32,
          "address": "https://example.org/v2", "licence": {"name": "NVIDIA Non-Commercial", "address": "https://example.org/l",
                                                          "forbids": "commercial use"}}  # fmt: skip
SAMPLING = {"nfe": 1, "seed": 0, "sampler": "meanflow", "batch": 4, "spacing_mm": 5.0, "precision": "float32"}


def about(source="embedded", decoder=OURS):
    return {"study": "small", "source": source, "spacing_mm": 5.0, "nfe": [1, 4], "n_samples": 8, "threads": 1,
            "sampling": SAMPLING, "decoder": decoder, "shape": [32, 48, 32], "code": "abc"}  # fmt: skip


def card(folder, **options):
    inputs = [path for path in sorted(folder.iterdir()) if path.name != "metrics"] + [folder / "metrics/reference.csv"]
    return model_card.card(Results(folder, "meanflow", inputs), about=about(**options), phases=range(6))


def text(folder, **options):
    return model_card.markdown(card(folder, **options), package.EXAMPLE)


def row(content, metric):
    return next(row for row in content["metrics"] if row["metric"] == metric)


def test_every_number_of_the_card_equals_the_results(small_study):
    content = card(small_study)
    table = read_rows(small_study / "metrics" / "metrics.csv")
    seen = 0
    for each in content["metrics"]:
        rows = table[(table.metric == each["metric"]) & (table.features == each["features"])]
        for which, found in each["values"].items():
            there = select_set(rows, int(which) if which.isdigit() else which)
            assert len(there) == (found is not None)
            if found:
                assert found["value"] == pytest.approx(float(there.value.iloc[0])) and found["n"] == there.n.iloc[0]
                seen += 1
    assert seen == sum(table.metric.isin(model_card.METRICS))


def test_a_distance_has_interval_features_and_n(small_study):
    found = row(card(small_study), "frechet")
    assert found["features"] == "encoder-512"
    assert found["values"]["1"] == {"n": 8, "value": 670.2, "low": 640, "high": 700}
    line = next(line for line in text(small_study).splitlines() if line.startswith("| Fréchet"))
    assert "670 (640 to 700)" in line and "| 8, 4 |" in line and "not measured" in line  # reconstructions were not


def test_privacy_gates_participants_and_cost_are_listed(small_study):
    content, markdown = card(small_study), text(small_study)
    audit = {"memorised_fraction": 0, "nearest_train_ratio": 0.91, "nearest_train_ratio_p": 0.11,
             "membership_auc": 0.46, "membership_p": 0.61, "privacy_alarm": 0}  # fmt: skip
    assert content["privacy"] == [{"features": "image-pool4", "n": 8, **audit}]
    assert [gate["status"] for gate in content["gates"]].count("OPEN") == 5
    assert "BLOCKED by P4-T6" in markdown and "EMA over online: 1.012, required <= 1" in markdown
    assert (
        content["data"]["scans"]["train"] == 2
        and content["data"]["age"]["mean"] == 40
        and content["data"]["sex"] == {"F": 1, "M": 1}
    )
    assert "0.0512" in markdown and "543,712 trained parameters" in markdown


def test_a_metric_that_is_measured_twice_is_an_error(small_study):
    path = small_study / "runs" / "meanflow" / "metrics.csv"
    path.write_text(path.read_text() + "\n" + path.read_text().splitlines()[1])
    with pytest.raises(ValueError, match="frechet of 1 .* has 2 rows"):
        card(small_study)


@pytest.mark.parametrize(
    "deleted, name",
    [
        ("gates/phase_3.json", "gate of phase 3"),
        ("bench", "cost of generation"),
        ("vae", "reconstruction quality of the autoencoder"),
        ("runs/meanflow/card.json", "training"),
        ("cohort", "description of the participants"),
        ("runs/meanflow/metrics.csv", "privacy audit"),
    ],
)
def test_missing_parts_are_named(small_study, deleted, name):
    path = small_study / deleted
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    content = card(small_study)
    assert name in content["missing"]
    assert f"- {name}" in model_card.markdown(content, package.EXAMPLE)


def test_a_metric_is_missing_at_each_nfe_without_it(small_study):
    content = card(small_study)
    assert "MS-SSIM of pairs at 4 network evaluations" in content["missing"]
    assert "Fréchet distance at 4 network evaluations" not in content["missing"]


def test_licences_of_scans_and_weights_are_inherited(small_study):
    content = card(small_study, source="ixi", decoder=THEIRS)
    names = [each["name"] for each in content["licences"]]
    assert names == ["CC BY-SA 3.0 (IXI)", "NVIDIA Non-Commercial", "Apache-2.0"]
    licence = model_card.licence(content)
    assert "share-alike" in licence and "commercial use" in licence and "does not contain the autoencoder" in licence
    assert THEIRS["sha256"] in model_card.markdown(content, package.EXAMPLE)


def test_scans_without_known_licence_are_named(small_study):
    content = card(small_study, source="folder")
    assert content["licences"][0]["name"] == "not recorded"
    assert "does not know the licence" in model_card.licence(content)


def test_an_autoencoder_without_licence_in_the_config_is_not_treated_as_free(small_study):
    content = card(small_study, decoder=THEIRS | {"licence": None, "address": None})
    assert "non-commercial" in content["licences"][1]["condition"]
    assert "the source that the study used" in model_card.markdown(content, package.EXAMPLE)


def test_the_card_is_json_without_nan_and_reproducible(small_study):
    content = card(small_study)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert text(small_study) == text(small_study)


def test_rows_of_the_markdown_tables_match_their_headers(small_study):
    lines = text(small_study).splitlines()
    header_rules = [k for k, line in enumerate(lines) if line.startswith("|---")]
    assert len(header_rules) == 5
    for k in header_rules:
        end = next((j for j in range(k, len(lines)) if not lines[j].startswith("|")), len(lines))
        assert end > k + 1
        assert len({line.rstrip().count("|") for line in lines[k - 1 : end]}) == 1, lines[k - 1]
