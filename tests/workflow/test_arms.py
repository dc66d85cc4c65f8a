"""Arms of ablations as rules use them, and parameters of jobs from config sections."""

import pytest

from neuromf.config.study import read_config
from neuromf.workflow.arms import Arms, file_times
from neuromf.workflow.digests import ROOT
from neuromf.workflow.params import command_line, dump, provenance


@pytest.fixture
def arms(base_config):
    return Arms(read_config(base_config))


def test_each_arm_has_the_run_of_its_first_seed_in_the_order_of_the_config(arms):
    runs = arms.first_runs("rectified")
    assert list(runs.items()) == [("meanflow", "rectified-meanflow-s0"), ("rectified", "rectified-rectified-s0")]
    assert list(arms.first_runs("lp")) == ["2.0", "1.0", "1.5"]


def test_files_of_an_ablation_name_each_run_once(arms):
    files = arms.files("lp")
    assert files[:2] == [
        "results/runs/rectified-meanflow-s0/metrics.csv",
        "results/runs/rectified-meanflow-s0/card.json",
    ]
    assert len(files) == len(set(files)) == 6


def test_the_reference_arm_has_the_settings_of_the_main_run_else_it_is_the_first(arms, base_config):
    assert arms.base_arm("lp") == "2.0"  # the defaults of arms change the network, so no arm equals the main run
    base_config["meanflow"]["ablations"]["defaults"] = None
    assert Arms(read_config(base_config)).base_arm("prediction") == "x"


def test_baselines_are_the_arms_of_rectified_with_display_names(arms):
    assert arms.baselines()["rectified-rectified-s1"] == "Rectified Flow arm, seed 1"
    assert "meanflow" not in arms.baselines()


def test_a_run_names_all_arms_that_it_serves(arms):
    assert arms.served()["rectified-meanflow-s0"] == [
        "rectified: meanflow, seed 0", "prediction: x, seed 0", "lp: 2.0, seed 0",
    ]  # fmt: skip
    assert arms.served()["meanflow"] == []


def test_figures_and_tables_of_an_ablation_record_study_and_noise_seed(arms):
    for values in (arms.values("lp"), arms.table_values("lp")):
        assert (values["study"], values["seed"], values["ablation"]) == ("embedded", 0, "lp")
        assert values["arms"][0] == ["2.0", 0, "rectified-meanflow-s0"]


def test_a_partial_result_depends_on_the_files_that_exist(tmp_path):
    paths = [str(tmp_path / name) for name in "ab"]
    assert file_times(paths) == "0 of 2 files, newest 0"
    (tmp_path / "a").write_text("a")
    assert file_times(paths).startswith("1 of 2 files, newest ") and file_times(paths) != file_times(paths[:1])


def test_paths_of_a_section_are_resolved_and_packaged_weights_are_not(base_config):
    base_config["autoencoder"]["weights"] = "data/vae.pt"
    base_config["meanflow"]["train"]["init_from"] = None
    base_config["evaluation"]["features"] = [{"name": "radimagenet", "weights": "$HOME_OF_WEIGHTS/net.pt"}]
    config = read_config(base_config)
    assert dump(config.autoencoder, "weights", "steps") == {"weights": str(ROOT / "data/vae.pt"), "steps": 0}
    assert dump(config.evaluation)["features"][0]["weights"] == str(ROOT / "$HOME_OF_WEIGHTS/net.pt")
    base_config["autoencoder"]["weights"] = "packaged"
    assert dump(read_config(base_config).autoencoder)["weights"] == "packaged"


def test_unlisted_files_and_empty_lists_are_no_options():
    line = command_line({"qc": "qc.tsv", "after": ["x"], "published": []}, {"pdf": "a.pdf", "table": "t.csv"})
    assert line == "--qc qc.tsv --table t.csv"


def test_provenance_holds_the_sections_behind_a_figure(base_config):
    values = provenance(read_config(base_config), "meanflow", "meanflow.flow", "latents")
    assert values["values"]["meanflow.flow"]["prior"]["axes"] == [16, 48] and values["values"]["latents"]["mirror"]
