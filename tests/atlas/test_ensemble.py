"""Ensembles of aleatoric decoders: planted noise, snapshots, the law of total variance, the calibration report."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from atlas.training_helpers import ROOT, run

from neuromf.atlas import ensemble as ensembles
from neuromf.atlas import uncertainty
from neuromf.atlas.ensemble import (
    AleatoricDecoder,
    Ensemble,
    diversity,
    load_ensemble,
    require_distinct,
    total_variance,
)
from neuromf.atlas.ensemble_training import train_ensemble
from neuromf.atlas.preparation import write_maps
from neuromf.atlas.studies import read_studies
from neuromf.config.atlas_uncertainty import read_ensemble_preset

SMALL = {"model": {"decoder_width": 4}, "train": {"steps": 10, "batch": 8, "warmup": 0, "log_every": 1, "lr": 0.01}}


def preset(**changes):
    values = {name: part | changes.get(name, {}) for name, part in SMALL.items()}
    return read_ensemble_preset(ROOT / "studies/atlas/ensemble.yaml", values)


@pytest.fixture(scope="module")
def base(mock_studies, tmp_path_factory):
    """Folder with studies, schema, maps and a small volume model."""
    folder = tmp_path_factory.mktemp("base")
    run(folder, mock_studies, train={"steps": 4})
    write_maps(folder / "studies", folder / "12.npy", grid="6mm", fwhm_mm=12.0, combine="noisy_or")
    return folder


def trained(base, out, kind="snapshot", **changes):
    return train_ensemble(studies=base / "studies", maps=base / "12.npy", checkpoint=base / "run/checkpoint", out=out,
                          kind=kind, **preset(**changes))  # fmt: skip


@pytest.fixture(scope="module")
def snapshots(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensemble") / "run"
    return trained(base, out), out


@pytest.mark.critical
def test_A40_the_decoder_recovers_planted_noise_per_voxel():
    mask = torch.ones(4, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = False
    n = int(mask.sum())
    torch.manual_seed(0)
    std = torch.linspace(0.05, 0.4, n)
    member = AleatoricDecoder(mask, torch.zeros(n), torch.full((n,), -2.0), 3, None, last_width=16, depth=1, stride=1)
    zero = torch.zeros(16, 3)
    out = member(zero[:2], None)
    assert out.shape == (2, 2, 4, 4, 4) and not out[..., ~mask].any()
    optimiser = torch.optim.Adam(member.parameters(), lr=2e-2)
    for _ in range(300):
        mean, logvar = member.moments(zero, None)
        target = 0.3 + std * torch.randn(16, n)
        loss = 0.5 * ((target - mean) ** 2 * (-logvar).exp() + logvar).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mean, logvar = (one[0].detach() for one in member.moments(zero[:1], None))
    ratio = logvar.exp() / std**2
    assert ratio.mean() == pytest.approx(1, abs=0.15)
    assert torch.corrcoef(torch.stack([logvar, std.log()]))[0, 1] > 0.9 and (mean - 0.3).abs().mean() < 0.1


@pytest.mark.critical
def test_A41_five_snapshots_of_one_cyclic_cosine_are_distinct_checkpoints(snapshots):
    found, out = snapshots
    assert len(found.members) == len(set(found.digests)) == 5
    assert len({path.read_bytes() for path in out.glob("member_*.pt")}) == 5
    history = pd.read_csv(out / "history.csv")
    lr = history["lr"].to_numpy() / 0.01
    expected = [0.5 * (1 + math.cos(math.pi * (step % 2) / 2)) for step in range(10)]
    np.testing.assert_allclose(lr, expected, rtol=1e-4)
    assert not list((out / "ckpt").glob("*.ckpt"))


@pytest.mark.critical
def test_A41_a_snapshot_counted_twice_is_caught(base, snapshots, tmp_path):
    _, out = snapshots
    shutil.copytree(out, tmp_path / "twice")
    shutil.copyfile(out / "member_2.pt", tmp_path / "twice/member_4.pt")
    with pytest.raises(ValueError, match="members 2 and 4 of the ensemble have the same weights"):
        load_ensemble(tmp_path / "twice", base / "run")
    with pytest.raises(ValueError, match="members 1 and 3"):
        require_distinct(["a", "b", "a"])


def test_A41_members_of_another_volume_model_are_refused(base, snapshots, mock_studies, tmp_path):
    run(tmp_path, mock_studies, train={"steps": 1, "seed": 5})
    with pytest.raises(ValueError, match="decodes the latent of another volume model"):
        load_ensemble(snapshots[1], tmp_path / "run")
    with pytest.raises(ValueError, match="two or more members"):
        Ensemble(snapshots[0].atlas, snapshots[0].members[:1], {})


def test_A41_a_killed_training_resumes_with_the_same_weights(base, snapshots, tmp_path, monkeypatch):
    from neuromf.atlas.ensemble_training import SnapshotModule

    step = SnapshotModule.training_step

    def killed(self, *args):
        if int(self.drawn) == 7:
            raise KeyboardInterrupt
        return step(self, *args)

    changes = {"train": {"checkpoint_every": 3}}
    monkeypatch.setattr(SnapshotModule, "training_step", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trained(base, tmp_path / "run", **changes)
    assert list((tmp_path / "run/ckpt").glob("*.ckpt")) and not (tmp_path / "run/card.json").exists()
    monkeypatch.setattr(SnapshotModule, "training_step", step)
    assert trained(base, tmp_path / "run", **changes).digests == snapshots[0].digests


@pytest.mark.critical
def test_A45_the_wrapper_returns_three_maps_and_the_law_of_total_variance_holds(snapshots):
    found, _ = snapshots
    z = torch.randn(3, found.atlas.z_dim, generator=torch.Generator().manual_seed(0))
    maps = found.predict(z, found.atlas.metadata(year=2010).expand(3, -1))
    assert set(maps) == {"mean", "epistemic_unc", "aleatoric_unc"}
    for values in maps.values():
        assert values.shape == (3, *found.atlas.grid.shape) and not values[:, ~found.atlas.model.mask].any()
    assert (maps["epistemic_unc"] >= 0).all() and (maps["aleatoric_unc"] >= 0).all()
    assert maps["epistemic_unc"].max() > 0 and (maps["aleatoric_unc"][:, found.atlas.model.mask] > 0).all()
    assert not torch.equal(maps["mean"], found.predict(z)["mean"])  # metadata count


@pytest.mark.critical
def test_A45_the_variance_of_a_mixture_is_that_of_its_draws():
    random = torch.Generator().manual_seed(1)
    means, variances = torch.randn(4, 3, generator=random), torch.rand(4, 3, generator=random) + 0.1
    parts = total_variance(means, variances)
    member = torch.randint(4, (400_000,), generator=random)
    draws = means[member] + variances[member].sqrt() * torch.randn(400_000, 3, generator=random)
    torch.testing.assert_close(parts["mean"], draws.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(parts["epistemic_unc"] + parts["aleatoric_unc"], draws.var(0), rtol=0.01, atol=0)


@pytest.mark.critical
def test_A42_snapshots_and_independent_seeds_stand_side_by_side(base, snapshots, tmp_path):
    independent = trained(base, tmp_path / "independent", "independent")
    assert len(set(independent.digests) | set(snapshots[0].digests)) == 10
    for name, folder in (("snapshot", snapshots[1]), ("independent", tmp_path / "independent")):
        uncertainty.evaluate_calibration(run=folder, checkpoint=base / "run/checkpoint", studies=base / "studies",
                                         out=tmp_path / f"{name}.json", n_studies=4)  # fmt: skip
    uncertainty.write_comparison([tmp_path / "snapshot.json", tmp_path / "independent.json"], tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv").set_index("kind")
    assert list(table.index) == ["snapshot", "independent"] and (table["diversity"] > 0).all()
    assert table["ece"].between(0, 1).all() and (table["scale"] == "mock").all()


def test_A42_diversity_is_0_for_equal_members_and_1_for_unrelated_ones():
    maps = torch.randn(1, 4, 20_000, generator=torch.Generator().manual_seed(0))
    assert diversity(maps.expand(3, -1, -1)) == pytest.approx(0, abs=1e-9)
    unrelated = torch.randn(3, 4, 20_000, generator=torch.Generator().manual_seed(1))
    assert diversity(unrelated) == pytest.approx(1, abs=0.02)


@pytest.mark.critical
def test_A43_the_report_has_both_splits_regions_and_all_scalings(base, snapshots, tmp_path):
    found = uncertainty.evaluate_calibration(run=snapshots[1], checkpoint=base / "run/checkpoint",
                                             studies=base / "studies", out=tmp_path / "r.json",
                                             n_studies=10)  # fmt: skip
    assert found == json.loads((tmp_path / "r.json").read_text())
    keys = [(row["split"], row["region"], row["scaling"]) for row in found["rows"]]
    assert len(keys) == len(set(keys)) == 12
    rows = dict(zip(keys, found["rows"], strict=True))
    plain, scaled = (rows["val", "brain", name] for name in ("none", "coverage"))
    assert scaled["ece"] < plain["ece"] and scaled["sharpness"] != plain["sharpness"]
    assert found["n"] == {"val": 10, "test": 10} and 0 < found["zero_fraction"] < 1
    assert found["statement"].startswith("Mock data")


@pytest.mark.critical
def test_A43_calibration_on_training_voxels_is_refused(base, snapshots):
    found, everything = snapshots[0], read_studies(base / "studies")
    train, test = (everything.take(everything.rows(name)) for name in ("train", "test"))
    with pytest.raises(ValueError, match="refused on 3 training studies"):
        uncertainty.predictions(found, train.take(np.arange(3)), "test")  # training studies under another name
    with pytest.raises(ValueError, match="evaluated on val or test; got 'train'"):
        uncertainty.predictions(found, test, "train")


def test_A41_a_wrong_preset_or_kind_is_refused(base, tmp_path):
    with pytest.raises(SystemExit, match="decoder_stride"):
        preset(model={"decoder_stride": 3})
    with pytest.raises(ValueError, match="multiple of the 5 cycles; got 11"):
        trained(base, tmp_path, train={"steps": 11})
    with pytest.raises(ValueError, match="snapshot or independent; got 'deep'"):
        trained(base, tmp_path, "deep")
    assert ensembles.MEMBER == "member_{number}.pt"
