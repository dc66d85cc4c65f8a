"""Figure F1 of the growth system."""

import pandas as pd
from growth.figure_helpers import check_figure
from PIL import Image

from neuromf.data.multimodal import MODALITIES
from neuromf.data.multimodal_loaders import prepare_index
from neuromf.figures import growing_tumours


def test_G71_figure_f1_is_drawn_from_the_index_and_labelled_as_simulated(tiny_cohort, tmp_path):
    geometry = {"roi_size": [16] * 3, "spacing": [12.0] * 3, "val_split": 0.2, "test_split": 0.2, "seed": 0}
    prepare_index(tmp_path / "index", root_dir=tiny_cohort, **geometry)
    growing_tumours.render(
        tmp_path / "index",
        tmp_path / "fig_1",
        modalities=MODALITIES,
        label_map={},
        simulated="Simulated growth in generated anatomy",
        trajectories=tiny_cohort / "trajectories.tsv",
        study="test",
    )
    facts = check_figure(tmp_path / "fig_1", "Simulated growth in generated anatomy")
    train = pd.read_csv(tmp_path / "index/train.csv")
    assert set(facts["scans"]) <= set(train["id"]) and facts["study"] == "test"
    assert len({name.rsplit("-", 1)[0] for name in facts["scans"]}) == 3
    assert facts["simulated"] == "Simulated growth in generated anatomy"
    assert (tmp_path / "fig_1.pdf").stat().st_size > 10_000
    with Image.open(tmp_path / "fig_1.png") as image:
        assert image.width > 1500 and "Simulated growth" in image.text["Description"]


def test_visits_are_the_first_middle_and_last_of_the_patients_with_most():
    ids = [f"{patient}-{k:03d}" for patient, n in {"A": 1, "B": 5, "C": 2, "D": 2}.items() for k in range(n)]
    chosen = growing_tumours.choose_visits(pd.DataFrame({"id": ids, "patient": [name[0] for name in ids]}))
    assert chosen["id"].tolist() == ["B-000", "B-002", "B-004", "C-000", "C-001", "D-000", "D-001"]
