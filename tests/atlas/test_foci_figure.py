"""Figure F1 of the atlas."""

import json

from atlas.atlas_helpers import SPACE
from PIL import Image

from neuromf.atlas.preparation import prepare_studies
from neuromf.figures import atlas_foci


def test_figure_f1_is_drawn_from_the_studies_and_states_that_they_are_mock(tmp_path):
    prepare_studies(tmp_path / "studies", scale="mock", data_root="", space=SPACE, split=[0.7, 0.15, 0.15], seed=0)
    atlas_foci.render(tmp_path / "studies", tmp_path / "fig_1", scale="mock", data_root="", seed=0, study="test")
    facts = json.loads((tmp_path / "fig_1.json").read_text())
    assert facts["statement"].startswith("Mock data") and facts["study"] == "test"
    assert {"MNI", "TAL", "UNKNOWN"} <= facts["summary"].keys()
    assert (tmp_path / "fig_1.pdf").stat().st_size > 10_000
    with Image.open(tmp_path / "fig_1.png") as image:
        assert image.width > 1500 and "Mock data" in image.text["Description"]
