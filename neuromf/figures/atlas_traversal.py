"""Figure F3: latent traversals and a counterfactual on glass brains."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuromf.atlas.guards import statement
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.figures import style

N_DIMENSIONS = 3
ENDS = (-3.0, 0.0, 3.0)
TITLE_SIZE = 8
ROW_INCHES = 1.2
GRID = {"left": 0.01, "right": 0.99, "bottom": 0.05, "top": 0.95, "wspace": 0.04, "hspace": 0.22}


def render(*, checkpoint: Path, out: Path, topics: tuple[int, int] = (0, 1), **provenance: Any) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        checkpoint: Checkpoint or run folder of a conditional volume model.
        topics: Topics A and B of the counterfactual.
        provenance: Values for the side file.
    """
    atlas = load_atlas(checkpoint)
    facts = {"scale": atlas.card["scale"], "manifest": atlas.card["manifest"], "topics": list(topics)}
    style.save(draw(atlas, *topics), out, provenance | facts)


def draw(atlas: Atlas, topic_a: int, topic_b: int) -> Figure:
    """Maps at -3, 0 and +3 of the dimensions with the largest effect, and the maps of two topics with their change."""
    conditional = atlas.schema is not None
    n_rows = N_DIMENSIONS + conditional
    fig = style.new(style.PAGE, ROW_INCHES * n_rows + 0.3)
    fig.set_layout_engine("none")  # nilearn draws into the positions that axes have when it is called
    axes = fig.subplots(n_rows, 3, squeeze=False, gridspec_kw=GRID)
    rows = [(f"$z_{{{k + 1}}}$ = {value:+g}", maps) for k in largest_effects(atlas)
            for value, maps in zip(ENDS, traverse(atlas, k), strict=True)]  # fmt: skip
    rows += counterfactual(atlas, topic_a, topic_b) if conditional else []
    limit = max(np.abs(values).max() for _, values in rows[: 3 * N_DIMENSIONS])
    for ax, (title, values) in zip(axes.flat, rows, strict=True):
        signed = bool((values < 0).any())
        in_row_of_traversals = not title.startswith(("A:", "B:", "B "))
        glass_brain(ax, atlas, values, limit if in_row_of_traversals else float(np.abs(values).max()), signed=signed)
        ax.set_title(title, fontsize=TITLE_SIZE, pad=2)
    if note := statement(atlas.card["scale"]):
        fig.text(0.5, 0.01, note, fontsize=TITLE_SIZE, ha="center")
    return fig


def largest_effects(atlas: Atlas) -> list[int]:
    """Dimensions whose maps at -3 and +3 correlate least."""
    ends = [traverse(atlas, k) for k in range(atlas.z_dim)]
    correlation = [np.corrcoef(maps[0], maps[-1])[0, 1] for maps in ends]
    return np.argsort(correlation, kind="stable")[:N_DIMENSIONS].tolist()


def traverse(atlas: Atlas, dimension: int) -> NDArray[np.float32]:
    """Maps in the mask (3, V) at the values `ENDS` of one dimension."""
    z = torch.zeros(len(ENDS), atlas.z_dim)
    z[:, dimension] = torch.tensor(ENDS)
    return atlas.grid.vector(atlas.decode(z).numpy())


def counterfactual(atlas: Atlas, topic_a: int, topic_b: int) -> list[tuple[str, NDArray[np.float32]]]:
    """Titles and maps of topic A, topic B and B - A."""
    assert atlas.schema is not None
    words = next(field.columns for field in atlas.schema.fields if field.kind == "topics")
    weights = np.eye(len(words), dtype=np.float32)
    m = torch.cat([atlas.metadata(topics=weights[k]) for k in (topic_a, topic_b)])
    a, b = atlas.grid.vector(atlas.decode(torch.zeros(2, atlas.z_dim), m).numpy())
    names = [" ".join(words[k].split()[:2]) for k in (topic_a, topic_b)]
    return [(f"A: {names[0]}", a), (f"B: {names[1]}", b), ("B $-$ A", b - a)]


def glass_brain(ax: Axes, atlas: Atlas, values: NDArray[np.float32], limit: float, *, signed: bool) -> None:
    """Maximum projection of a map in the mask (V,) on a glass brain: left, front and top."""
    from nilearn.plotting import plot_glass_brain

    image = nib.Nifti1Image(atlas.grid.volume(values.astype(np.float32)), atlas.grid.affine)
    plot_glass_brain(image, axes=ax, display_mode="ortho", colorbar=False, vmax=limit, vmin=-limit if signed else 0,
                     cmap="RdBu_r" if signed else "Reds", plot_abs=False, threshold=0.05 * limit, annotate=False,
                     symmetric_cbar=signed)  # fmt: skip
