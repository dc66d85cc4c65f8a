"""Figure 1: the method at a glance, drawn with this study's own brains, latents and noise in its boxes."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray

from neuromf.figures import brains, style

WIDTH, HEIGHT = style.PAGE, 3.45  # inches; everything below is placed in inches from the lower left
TRAIN, SAMPLE = 2.6, 0.75  # height of the two rows
SIDE = 0.86  # of a picture


def fig_1(real: NDArray, latent: NDArray, eps: NDArray, drawn: NDArray, generated: NDArray, texts: dict) -> Figure:
    """Training above (encode, mix with noise, regress u), sampling below (one evaluation, decode).

    Arguments:
        real, generated: Volumes (I, J, K) in [0, 1], RAS+.
        latent, eps, drawn: A real latent, noise and a generated latent, normalised, each (C, i, j, k).
        texts: What this study's boxes say: volume_shape and latent_shape.
    """
    fig = style.new(WIDTH, HEIGHT)
    fig.set_layout_engine("none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.set_axis_off()
    _train(fig, ax, real, latent, eps, texts)
    _sample(fig, ax, eps, drawn, generated, texts)
    return fig


def _train(fig: Figure, ax: Axes, real: NDArray, latent: NDArray, eps: NDArray, texts: dict) -> None:
    ax.text(0.12, HEIGHT - 0.22, "Training", fontweight="bold")
    _brain(fig, real, 0.2, TRAIN, f"volume\n{texts['volume_shape']}")
    _box(ax, 1.62, TRAIN, "encoder\n(frozen)", "0.9")
    _channels(fig, latent, 2.35, TRAIN, f"latent $x$\n{texts['latent_shape']}")
    _channels(fig, 0.4 * latent + 0.6 * eps, 3.72, TRAIN, r"$z=(1-t)\,x+t\,\epsilon$")
    _box(ax, 5.3, TRAIN, "$u_\\theta(z,t,r)$\n3D UNet", style.PALETTE[0])
    ax.text(5.86, TRAIN + 0.02, "$V=u+(t-r)\\,\\frac{du}{dt}$\nregressed on\n$v=\\epsilon-x$", fontsize=8, va="center")
    for left, right in ((1.08, 1.3), (1.94, 2.33), (3.24, 3.7), (4.6, 4.94)):
        _arrow(ax, left, right, TRAIN)


def _sample(fig: Figure, ax: Axes, eps: NDArray, drawn: NDArray, generated: NDArray, texts: dict) -> None:
    ax.text(0.12, 1.42, "Sampling: one evaluation", fontweight="bold")
    _channels(fig, eps, 0.2, SAMPLE, r"noise $\epsilon$")
    _box(ax, 1.72, SAMPLE, "$u_\\theta(\\epsilon,1,0)$\nonce", style.PALETTE[0])
    _channels(fig, drawn, 2.55, SAMPLE, r"$x=\epsilon-u$")
    _box(ax, 4.1, SAMPLE, "decoder\n(frozen)", "0.9")
    _brain(fig, generated, 4.85, SAMPLE, "new volume")
    for left, right in ((1.1, 1.36), (2.08, 2.5), (3.46, 3.76), (4.44, 4.8)):
        _arrow(ax, left, right, SAMPLE)


def _axes(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    return fig.add_axes((x / WIDTH, (y - height / 2) / HEIGHT, width / WIDTH, height / HEIGHT))


def _brain(fig: Figure, volume: NDArray, x: float, y: float, label: str) -> None:
    crop = brains.box([volume])
    ax = _axes(fig, x, y, SIDE, SIDE)
    brains.show(ax, brains.cut(volume, "axial", crop, 2.0), mark=True)
    ax.text(0.5, -0.06, label, transform=ax.transAxes, ha="center", va="top", fontsize=8)


def _channels(fig: Figure, latent: NDArray, x: float, y: float, label: str) -> None:
    """Four channels of a latent as a 2 x 2 of their middle axial slices."""
    half = SIDE / 2
    middle = latent.shape[-1] // 2
    for c in range(4):
        ax = _axes(fig, x + (c % 2) * half, y + (0.5 - c // 2) * half, half * 0.96, half * 0.96)
        ax.imshow(latent[c, :, :, middle].T[::-1], cmap="viridis", vmin=-2.5, vmax=2.5, aspect="auto")
        ax.set_axis_off()
    fig.axes[0].text(x + half, y - SIDE / 2 - 0.05, label, ha="center", va="top", fontsize=8)


def _box(ax: Axes, x: float, y: float, text: str, colour: object) -> None:
    style_of = "round,pad=0.02,rounding_size=0.06"
    ax.add_patch(
        FancyBboxPatch((x - 0.33, y - 0.3), 0.66, 0.6, style_of, facecolor=colour, edgecolor="0.2", alpha=0.35)
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=8)


def _arrow(ax: Axes, left: float, right: float, y: float) -> None:
    ax.add_patch(FancyArrowPatch((left, y), (right, y), arrowstyle="-|>", mutation_scale=9, color="0.2", lw=1))
