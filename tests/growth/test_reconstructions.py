"""PNGs of reconstructions during training."""

from growth.training_helpers import NAMES, run
from matplotlib.figure import Figure


def test_G40_three_planes_of_four_modalities_in_three_panels_at_the_configured_epochs(tmp_path, monkeypatch):
    drawn, save = {}, Figure.savefig

    def record(figure, path, **options):
        drawn[path.relative_to(tmp_path).as_posix()] = [axes.get_title() for axes in figure.axes]
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    run(tmp_path, train={"max_epochs": 3}, logging={"recon_every_n_epochs": 2, "num_recon_samples": 2})
    names = [f"recon/epoch_{epoch}/s2{k}_{plane}.png" for epoch in (0, 2) for k in (0, 1)
             for plane in ("axial", "coronal", "sagittal")]  # fmt: skip
    found = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "recon").rglob("*.png")}
    assert found == set(names) == drawn.keys()
    panels = [f"{name} {panel}" for name in NAMES for panel in ("input", "recon", "|diff|")]
    assert all(titles == panels for titles in drawn.values())
