"""The figure of latents shows the statistics it is drawn from."""

import json

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from neuromf.core import seeds
from neuromf.figures import latents as figure
from neuromf.vae import statistics
from workflow_scripts import fig_latents as latents_script


@pytest.fixture
def drawn():
    """Statistics of random latents, and the figure of them."""
    mean = torch.randn(12, 4, 3, 4, 5, generator=seeds.generator("test", "latents"))
    mean = mean + torch.tensor([0.0, 1.0, 2.0, 3.0]).view(4, 1, 1, 1)
    stats = statistics.statistics(mean, mean.exp())
    validation = {"sigma_inside": [0.1, 0.2, 0.3, 0.4], "sigma_outside": [0.2, None, 0.4, 0.5]}
    return stats, figure.draw(stats, validation)


def test_the_figure_shows_the_density_of_each_channel_and_of_the_normal_distribution(drawn):
    stats, fig = drawn
    stairs = [patch for patch in fig.axes[0].patches if hasattr(patch, "get_data")]
    assert len(stairs) == 4
    for patch, counts in zip(stairs, stats["histogram"]["counts"], strict=True):
        values, edges, _ = patch.get_data()
        expected = np.array(counts) / 720 / np.diff(statistics.EDGES)
        np.testing.assert_allclose(np.nan_to_num(values), np.where(expected < figure.LEAST_DENSITY, 0, expected))
        assert np.array_equal(edges, statistics.EDGES)
    z, density = fig.axes[0].lines[0].get_xydata().T
    np.testing.assert_allclose(density, scipy_stats.norm.pdf(z), rtol=1e-9)


def test_the_figure_shows_correlations_components_and_posterior_widths(drawn):
    stats, fig = drawn
    assert np.array_equal(fig.axes[1].images[0].get_array(), stats["correlation"])
    assert [text.get_text() for text in fig.axes[1].texts[:2]] == ["$1.00$", f"${stats['correlation'][0][1]:.2f}$"]
    cumulative, fraction, rank = fig.axes[3].lines  # axes[2] is the colour bar
    np.testing.assert_allclose(fraction.get_ydata(), stats["pca_fraction"][:11])  # 12 scans span 11 components
    np.testing.assert_allclose(cumulative.get_ydata(), np.cumsum(stats["pca_fraction"][:11]))
    assert rank.get_xdata()[0] == stats["effective_rank"]
    heights = [bar.get_height() for bar in fig.axes[4].patches]
    np.testing.assert_array_equal(heights, [0.1, 0.2, 0.3, 0.4, 0.2, np.nan, 0.4, 0.5])


def test_the_script_draws_the_figure_from_its_files(tmp_path, drawn):
    stats, _ = drawn
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    (tmp_path / "validation.json").write_text(json.dumps({"sigma_inside": [0.1] * 4, "sigma_outside": [0.2] * 4}))
    files = ["--stats", str(tmp_path / "stats.json"), "--validation", str(tmp_path / "validation.json")]
    latents_script.main([*files, "--config", '{"study": "test"}', "--out", str(tmp_path / "latents")])
    assert json.loads((tmp_path / "latents.json").read_text()) == {"study": "test"}
    assert all((tmp_path / f"latents.{suffix}").stat().st_size > 1000 for suffix in ("pdf", "png"))
