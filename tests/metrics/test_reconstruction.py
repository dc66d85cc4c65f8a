"""Reconstruction metrics against NumPy, scikit-image and constructed cases."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from neuromf.core import seeds
from neuromf.data import nifti
from neuromf.metrics.images import reconstruction, similarity, spectral
from neuromf.vae import maisi
from neuromf.vae.weights import build_autoencoder, save_weights
from workflow_scripts import validate as validate_script

SHAPE = (32, 36, 28)
FOREGROUND = np.zeros(SHAPE, bool)
FOREGROUND[8:24, 10:28, 6:22] = True


def uniform(*shape, key="roundtrip"):
    return torch.rand(shape, generator=seeds.generator("test", key))


def brains(n, key="brains"):
    """Smooth bright brains in an empty background."""
    noise = uniform(n, 1, *SHAPE, key=key).numpy()
    smooth = gaussian_filter(noise, (0, 0, 1.5, 1.5, 1.5))
    return torch.from_numpy(np.where(FOREGROUND, 0.2 + smooth, 0)).float()


class Codec:
    """An autoencoder with block averages in four channels as latents, and a decoder that blurs and adds an offset."""

    def __init__(self, blur=0.0, offset=0.0):
        self.blur, self.offset = blur, offset

    def encode(self, volume):
        self.seen = volume
        mean = torch.nn.functional.avg_pool3d(volume, 4).repeat(1, 4, 1, 1, 1) * torch.arange(1, 5).view(-1, 1, 1, 1)
        return mean, 0.1 * mean.abs() + 0.01

    def decode(self, _):
        blurred = gaussian_filter(self.seen.numpy(), (0, 0, *[self.blur] * 3)) if self.blur else self.seen.numpy()
        return torch.from_numpy(blurred) + self.offset


def validated(codec, n=2):
    return reconstruction.validate(codec.encode, codec.decode, brains(n), np.stack([FOREGROUND] * n))


# --- fidelity -----------------------------------------------------------------------------------------


def test_the_ssim_map_agrees_with_scikit_image_and_its_mean_with_ssim():
    a, b = brains(1)[0, 0].numpy(), gaussian_filter(brains(1)[0, 0].numpy(), 0.7)
    windows = reconstruction.ssim_map(a, b)
    assert windows.shape == tuple(n - 10 for n in SHAPE)
    assert windows.mean() == pytest.approx(similarity.ssim(a[None], b[None])[0], rel=1e-6)
    kind = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, full = structural_similarity(a.astype(float), b.astype(float), win_size=11, full=True, **kind)
    np.testing.assert_allclose(windows, full[5:-5, 5:-5, 5:-5], atol=2e-3)


def test_errors_inside_and_outside_agree_with_numpy():
    a = brains(1)[0, 0].numpy()
    b = a + np.where(FOREGROUND, 0.1, 0.02).astype(np.float32)
    row = reconstruction.fidelity(a, b, FOREGROUND)
    assert row["mae_inside"] == pytest.approx(0.1, rel=1e-5) and row["mae_outside"] == pytest.approx(0.02, rel=1e-5)
    assert row["psnr_inside"] == pytest.approx(20, rel=1e-5)
    assert row["psnr_outside"] == pytest.approx(-20 * np.log10(0.02), rel=1e-5)
    assert row["psnr"] == pytest.approx(similarity.psnr(a[None], b[None])[0], rel=1e-6)
    assert row["ms_ssim"] == pytest.approx(similarity.ms_ssim(a[None], b[None])[0])
    windows = reconstruction.ssim_map(a, b)
    assert row["ssim_inside"] == pytest.approx(windows[FOREGROUND[5:-5, 5:-5, 5:-5]].mean())
    assert row["ssim_outside"] == pytest.approx(windows[~FOREGROUND[5:-5, 5:-5, 5:-5]].mean())


def test_a_blur_lowers_the_high_frequency_ratio():
    assert validated(Codec())["high_frequency"] == pytest.approx(1)
    blurred = validated(Codec(blur=1.0))
    a, b = brains(2)[:, 0].numpy(), gaussian_filter(brains(2)[:, 0].numpy(), (0, 1, 1, 1))
    expected = spectral.high_frequency_ratio(b, 2.0) / spectral.high_frequency_ratio(a, 2.0)
    assert blurred["high_frequency"] == pytest.approx(expected.mean(), rel=1e-3) and blurred["high_frequency"] < 0.5


def test_a_perfect_reconstruction_has_ssim_one_and_no_psnr():
    report = validated(Codec())
    assert report["ssim"] == report["ssim_inside"] == pytest.approx(1) and report["mae"] == 0
    assert report["psnr"] is None and report["psnr_each"] == [None, None]
    json.dumps(report, allow_nan=False)


def test_debris_in_the_background_changes_outside_values_only():
    """Such debris hardly changes the PSNR of the whole volume."""
    volume = brains(1)[0, 0].numpy()
    debris = volume.copy()
    debris[2:4, 2:4, 2:4] = 0.5
    row = reconstruction.fidelity(volume, debris, FOREGROUND)
    assert row["mae_inside"] == 0 and row["psnr_inside"] is None and row["ssim_inside"] > 0.99
    assert row["mae_outside"] > 0 and row["ssim_outside"] < row["ssim_inside"]


def test_volumes_too_small_for_three_scales_have_no_ms_ssim():
    small = brains(1)[0, 0].numpy()[:20, :20, :20]
    row = reconstruction.fidelity(small, gaussian_filter(small, 1), FOREGROUND[:20, :20, :20])
    assert row["ms_ssim"] is None and row["ssim"] is not None


def test_without_background_there_are_no_outside_values():
    codec = Codec(offset=0.1)
    report = reconstruction.validate(codec.encode, codec.decode, brains(1), np.ones((1, *SHAPE), bool))
    assert report["mae_outside"] is report["ssim_outside"] is report["psnr_outside"] is None
    assert report["sigma_outside"] == [None] * 4 and None not in report["sigma_inside"]


# --- the posterior ------------------------------------------------------------------------------------


def test_sigma_is_weighted_by_the_foreground_and_relative_to_the_channel():
    codec, n = Codec(), 2
    report = validated(codec, n)
    moments = [codec.encode(volume[None]) for volume in brains(n)]
    mean, std = (torch.cat(m).double().numpy() for m in zip(*moments, strict=True))
    share = FOREGROUND.reshape(8, 4, 9, 4, 7, 4).mean((1, 3, 5))
    assert 0 < np.mean((share > 0) & (share < 1))  # some positions are partly foreground
    for c in range(4):
        for name, w in (("inside", share), ("outside", 1 - share)):
            each = [np.average(std[k, c], weights=w) for k in range(n)]
            assert report[f"sigma_{name}"][c] == pytest.approx(np.mean(each) / mean[:, c].std(), rel=1e-5)
    np.testing.assert_allclose(report["latent_std"], mean.transpose(1, 0, 2, 3, 4).reshape(4, -1).std(1), rtol=1e-5)


# --- the script ---------------------------------------------------------------------------------------


def test_the_script_reports_test_volumes_only(tmp_path):
    rows = []
    for k, split in enumerate(("train", "test", "test", "test")):
        file = tmp_path / f"{k}.nii.gz"
        nifti.write_volume(file, brains(1, key=f"brain {k}")[0, 0].clamp(0, 1).numpy(), np.eye(4))
        rows.append({"scan": f"s{k}", "split": split, "status": "accepted", "volume": str(file)})
    pd.DataFrame(rows).to_csv(tmp_path / "qc.tsv", sep="\t", index=False)
    net = build_autoencoder(maisi.COMPACT, None, seed=0)
    save_weights(net, tmp_path / "vae.safetensors")
    where = ["--qc", str(tmp_path / "qc.tsv"), "--weights", str(tmp_path / "vae.safetensors")]
    config = json.dumps({"n_validated": 2})
    validate_script.main([*where, "--config", config, "--out", str(tmp_path / "validation.json")])
    report = json.loads((tmp_path / "validation.json").read_text())
    assert (report["n"], report["parameters"], report["entries"]) == (2, 697_000, 58)
    held_out = nifti.read_volumes([row["volume"] for row in rows[1:3]]).float()
    decoded = torch.cat([net.reconstruct(volume[None]) for volume in held_out]).clamp(0, 1)
    pair = held_out[:, 0].numpy(), decoded[:, 0].numpy()
    np.testing.assert_allclose(report["ssim_each"], similarity.ssim(*pair), rtol=1e-5)
    np.testing.assert_allclose(report["psnr_each"], similarity.psnr(*pair), rtol=1e-5)
    assert report["ssim"] == pytest.approx(np.mean(report["ssim_each"]))
    assert report["psnr"] == pytest.approx(np.mean(report["psnr_each"]))
    assert len(report["sigma_inside"]) == 4
