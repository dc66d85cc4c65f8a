"""The model card: numbers from the run's own results, terms of data and weights, and what is missing named as such."""

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
SAMPLING = {
    "steps": 1,
    "seed": 0,
    "sampler": "mean",
    "batch": 4,
    "spacing_mm": 5.0,
    "dtype": "int16",
    "precision": "float32",
}


def about(source="embedded", decoder=OURS):
    return {"study": "small", "source": source, "spacing_mm": 5.0, "evaluations": [1, 4], "n_samples": 8, "threads": 1,
            "sampling": SAMPLING, "decoder": decoder, "shape": [32, 48, 32], "code": "abc"}  # fmt: skip


def made(folder, **kind):
    return model_card.card(Results(folder, "meanflow"), about=about(**kind), phases=range(6))


def written(folder, **kind):
    return model_card.markdown(made(folder, **kind), package.EXAMPLE)


def row(told, metric):
    return next(each for each in told["metrics"] if each["metric"] == metric)


# --- numbers -----------------------------------------------------------------------------------------


def test_every_number_of_the_card_is_that_of_the_results(small_study):
    told = made(small_study)
    table = read_rows(small_study / "metrics" / "metrics.csv")
    seen = 0
    for each in told["metrics"]:
        rows = table[(table.metric == each["metric"]) & (table.features == each["features"])]
        for which, found in each["values"].items():
            there = select_set(rows, int(which) if which.isdigit() else which)
            assert len(there) == (found is not None)
            if found:
                assert found["value"] == pytest.approx(float(there.value.iloc[0])) and found["n"] == there.n.iloc[0]
                seen += 1
    assert seen == sum(table.metric.isin(model_card.SHOWN))


def test_a_distance_has_its_interval_its_features_and_its_n(small_study):
    found = row(made(small_study), "frechet")
    assert found["features"] == "encoder-512"
    assert found["values"]["1"] == {"n": 8, "value": 670.2, "low": 640, "high": 700}
    line = next(line for line in written(small_study).splitlines() if line.startswith("| Fréchet"))
    assert "670 (640 to 700)" in line and "| 8, 4 |" in line and "not measured" in line  # the round trip was not


def test_privacy_gates_people_and_cost_are_told(small_study):
    told, text = made(small_study), written(small_study)
    audit = {"memorised_fraction": 0, "nearest_train_ratio": 0.91, "nearest_train_ratio_p": 0.11,
             "membership_auc": 0.46, "membership_p": 0.61, "privacy_alarm": 0}  # fmt: skip
    assert told["privacy"] == [{"features": "image-pool4", "n": 8, **audit}]
    assert [gate["status"] for gate in told["gates"]].count("OPEN") == 5
    assert "BLOCKED by P4-T6" in text and "EMA over online: 1.012, wanted <= 1" in text
    assert (
        told["data"]["people"]["train"] == 2
        and told["data"]["age"]["mean"] == 40
        and told["data"]["sex"] == {"F": 1, "M": 1}
    )
    assert "0.0512" in text and "543,712 parameters" in text


def test_a_number_that_stands_twice_is_an_error(small_study):
    path = small_study / "runs" / "meanflow" / "metrics.csv"
    path.write_text(path.read_text() + "\n" + path.read_text().splitlines()[1])
    with pytest.raises(ValueError, match="frechet of 1 .* stands 2 times"):
        made(small_study)


# --- what is missing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gone, said",
    [
        ("gates/phase_3.json", "gate of phase 3"),
        ("bench", "cost of generation"),
        ("vae", "round trip of the autoencoder"),
        ("runs/meanflow/card.json", "training"),
        ("cohort", "who the people are"),
        ("runs/meanflow/metrics.csv", "privacy audit"),
    ],
)
def test_what_is_missing_is_named(small_study, gone, said):
    path = small_study / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    told = made(small_study)
    assert said in told["missing"]
    assert f"- {said}" in model_card.markdown(told, package.EXAMPLE)


def test_a_metric_of_some_evaluations_only_is_missing_at_the_others(small_study):
    told = made(small_study)
    assert "MS-SSIM between pairs at 4 evaluations" in told["missing"]
    assert "Fréchet distance at 4 evaluations" not in told["missing"]


# --- terms -------------------------------------------------------------------------------------------


def test_share_alike_scans_and_non_commercial_weights_bind_the_run(small_study):
    told = made(small_study, source="ixi", decoder=THEIRS)
    names = [each["name"] for each in told["licences"]]
    assert names == ["CC BY-SA 3.0 (IXI)", "NVIDIA Non-Commercial", "Apache-2.0"]
    text = model_card.licence(told)
    assert "share-alike" in text and "commercial use" in text and "not in this folder" in text
    assert THEIRS["sha256"] in model_card.markdown(told, package.EXAMPLE)


def test_scans_of_unknown_terms_are_said_to_be_so(small_study):
    told = made(small_study, source="folder")
    assert told["licences"][0]["name"] == "not recorded"
    assert "does not know the terms" in model_card.licence(told)


def test_an_autoencoder_without_a_licence_in_the_config_is_not_taken_for_free(small_study):
    told = made(small_study, decoder=THEIRS | {"licence": None, "address": None})
    assert "non-commercial" in told["licences"][1]["asks"]
    assert "where the study had it from" in model_card.markdown(told, package.EXAMPLE)


# --- words -------------------------------------------------------------------------------------------


def test_the_card_is_json_without_nan_and_the_same_twice(small_study):
    told = made(small_study)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert written(small_study) == written(small_study)


def test_tables_of_the_card_have_the_columns_of_their_heads(small_study):
    lines = written(small_study).splitlines()
    heads = [k for k, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) == 5
    for k in heads:
        end = next((j for j in range(k, len(lines)) if not lines[j].startswith("|")), len(lines))
        assert end > k + 1
        assert len({line.rstrip().count("|") for line in lines[k - 1 : end]}) == 1, lines[k - 1]
