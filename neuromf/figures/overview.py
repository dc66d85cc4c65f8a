"""Figure 1: overview of the method, with brains, latents and noise of the study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray

from neuromf.data.participants import read_table
from neuromf.figures import brains, style

WIDTH, HEIGHT = style.PAGE, 3.45  # inches; positions below are in inches from the lower left
TRAIN, SAMPLE = 2.6, 0.75  # height of the two rows
SIDE = 0.86  # of a picture


def render(*, qc: Path, latents: Sequence[Path], stats: Path, samples: Path, out: Path, **config: Any) -> None:
    """Draw figure 1 from the first test scan and the first one-step sample of a study.

    Arguments:
        latents, stats: Shards of latents, and statistics of the training latents (JSON).
        samples: Folder of one-step samples.
        config: seed (of the samples).
    """
    import torch  # drawing alone does not need torch, nor what imports it

    from neuromf.core import seeds
    from neuromf.data.preprocessing import volumes_of_split
    from neuromf.vae import shards, statistics

    scans, scale = read_table(qc), statistics.read_stats(stats)
    test = shards.load_split(latents, scans.set_index("scan")["split"], "test")
    latent = statistics.normalise(test["mean"][:1], scale)[0]
    sample = statistics.normalise(torch.load(samples / "latents.pt", weights_only=True)[:1], scale)[0]
    eps = seeds.noise(config["seed"], [0], tuple(scale["shape"]))[0]
    files = [volumes_of_split(scans, "test")[0], read_table(samples / "samples.tsv")["file"][0]]
    real, generated = brains.read(files)
    style.save(draw(real, generated, latent.numpy(), eps.numpy(), sample.numpy()), out, config)


def draw(real: NDArray, generated: NDArray, latent: NDArray, eps: NDArray, sample: NDArray) -> Figure:
    """Training above (encode, mix with noise, regress u), sampling below (one network evaluation, decode).

    Arguments:
        real, generated: Volumes (I, J, K) in [0, 1], RAS+.
        latent, eps, sample: A latent of a test scan, noise and a generated latent, normalised, each (C, I, J, K).
    """
    fig = style.new(WIDTH, HEIGHT)
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.set_axis_off()
    _train(fig, ax, real, latent, eps)
    _sample(fig, ax, eps, sample, generated)
    return fig


def _train(fig: Figure, ax: Axes, real: NDArray, latent: NDArray, eps: NDArray) -> None:
    ax.text(0.12, HEIGHT - 0.22, "Training", fontweight="bold")
    _brain(fig, real, 0.2, TRAIN, f"volume\n{_times(real.shape)}")
    _box(ax, 1.62, TRAIN, "encoder\n(frozen)", "0.9")
    _channels(fig, latent, 2.35, TRAIN, f"latent $x$\n{_times(latent.shape)}")
    _channels(fig, 0.4 * latent + 0.6 * eps, 3.72, TRAIN, r"$z=(1-t)\,x+t\,\epsilon$")
    _box(ax, 5.3, TRAIN, "$u_\\theta(z,t,r)$\n3D UNet", style.PALETTE[0])
    ax.text(5.86, TRAIN + 0.02, "$V=u+(t-r)\\,\\frac{du}{dt}$\nregressed on\n$v=\\epsilon-x$", fontsize=8, va="center")
    for left, right in ((1.08, 1.3), (1.94, 2.33), (3.24, 3.7), (4.6, 4.94)):
        _arrow(ax, left, right, TRAIN)


def _sample(fig: Figure, ax: Axes, eps: NDArray, sample: NDArray, generated: NDArray) -> None:
    ax.text(0.12, 1.42, "Sampling: one network evaluation", fontweight="bold")
    _channels(fig, eps, 0.2, SAMPLE, r"noise $\epsilon$")
    _box(ax, 1.72, SAMPLE, "$u_\\theta(\\epsilon,1,0)$\nonce", style.PALETTE[0])
    _channels(fig, sample, 2.55, SAMPLE, r"$x=\epsilon-u$")
    _box(ax, 4.1, SAMPLE, "decoder\n(frozen)", "0.9")
    _brain(fig, generated, 4.85, SAMPLE, "new volume")
    for left, right in ((1.1, 1.36), (2.08, 2.5), (3.46, 3.76), (4.44, 4.8)):
        _arrow(ax, left, right, SAMPLE)


def _times(shape: Sequence[int]) -> str:
    return r"$\times$".join(map(str, shape))


def _axes(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    return fig.add_axes((x / WIDTH, (y - height / 2) / HEIGHT, width / WIDTH, height / HEIGHT))


def _brain(fig: Figure, volume: NDArray, x: float, y: float, label: str) -> None:
    crop = brains.box([volume])
    ax = _axes(fig, x, y, SIDE, SIDE)
    brains.show(ax, brains.cut(volume, "axial", crop, 2.0), mark=True)
    ax.text(0.5, -0.06, label, transform=ax.transAxes, ha="center", va="top", fontsize=8)


def _channels(fig: Figure, latent: NDArray, x: float, y: float, label: str) -> None:
    """Draw the middle axial slices of four channels in two rows."""
    half = SIDE / 2
    middle = latent.shape[-1] // 2
    for c in range(4):
        ax = _axes(fig, x + (c % 2) * half, y + (0.5 - c // 2) * half, half * 0.96, half * 0.96)
        ax.imshow(latent[c, :, :, middle].T[::-1], cmap="viridis", vmin=-2.5, vmax=2.5, aspect="auto")
        ax.set_axis_off()
    fig.axes[0].text(x + half, y - SIDE / 2 - 0.05, label, ha="center", va="top", fontsize=8)


def _box(ax: Axes, x: float, y: float, text: str, colour: object) -> None:
    corners = "round,pad=0.02,rounding_size=0.06"
    box = FancyBboxPatch((x - 0.33, y - 0.3), 0.66, 0.6, corners, facecolor=colour, edgecolor="0.2", alpha=0.35)
    ax.add_patch(box)
    ax.text(x, y, text, ha="center", va="center", fontsize=8)


def _arrow(ax: Axes, left: float, right: float, y: float) -> None:
    ax.add_patch(FancyArrowPatch((left, y), (right, y), arrowstyle="-|>", mutation_scale=9, color="0.2", lw=1))
