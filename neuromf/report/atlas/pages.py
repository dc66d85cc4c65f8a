"""Latent Slider and Counterfactual Machine: self-contained HTML pages that need no server.

Decoded maps are embedded as one byte per voxel of the mask; a script projects them on glass brains. A content security
policy forbids the browser to load anything.
"""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from neuromf.atlas.guards import statement
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.atlas.rates import decoded
from neuromf.core.files import write_text
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.report import templating

TEMPLATES = Path(__file__).with_name("templates")
VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # of a latent dimension
YEARS = (None, 1999, 2004, 2009, 2014)
UNKNOWN = "unknown"
LIMIT = 25e6  # bytes of a page


def write_latent_slider(*, checkpoint: Path, out: Path, code: str = "") -> None:
    """Write the page that traverses one latent dimension at a time.

    Arguments:
        checkpoint: Checkpoint or run folder of a volume model.
        out: HTML file.
        code: Digest of the code, stated at the foot.
    """
    atlas = load_atlas(checkpoint)
    dimensions, moved = rank_dimensions(atlas)
    options = {
        "dimension": [f"z{k + 1} (effect {moved[k]:.2f})" for k in dimensions],
        "value": [f"{v:+g}" for v in VALUES],
    }
    latents = torch.stack([traversal(atlas.z_dim, k)[v] for k in dimensions for v in range(len(VALUES))])
    maps = decoded(atlas, atlas.grid, latents, None)
    _write(out, atlas, maps, "slider", "Latent Slider", options, code)


def write_counterfactual(*, checkpoint: Path, out: Path, code: str = "") -> None:
    """Write the page that compares the maps of two sets of metadata; unknown fields are missing entries of m.

    Raises:
        ValueError: If the model is unconditional.
    """
    atlas = load_atlas(checkpoint)
    topics = topic_names(atlas)
    rows = [metadata_row(atlas, topic, year) for topic in (None, *range(len(topics))) for year in YEARS]
    maps = decoded(atlas, atlas.grid, torch.zeros(len(rows), atlas.z_dim), torch.cat(rows))
    options = {"topic": [UNKNOWN, *topics], "year": [UNKNOWN if year is None else str(year) for year in YEARS]}
    _write(out, atlas, maps, "counterfactual", "Counterfactual Machine", options, code)


def traversal(z_dim: int, dimension: int) -> Tensor:
    """Latents (7, d) that move one dimension from -3 to 3 through the prior mean."""
    z = torch.zeros(len(VALUES), z_dim)
    z[:, dimension] = torch.tensor(VALUES)
    return z


def rank_dimensions(atlas: Atlas) -> tuple[list[int], NDArray[np.float64]]:
    """Dimensions by falling effect, and the effect of each: 1 - r of the maps at -3 and +3."""
    ends = torch.cat([traversal(atlas.z_dim, k)[[0, -1]] for k in range(atlas.z_dim)])
    maps = decoded(atlas, atlas.grid, ends, None)
    effect = np.array([1 - np.corrcoef(maps[2 * k], maps[2 * k + 1])[0, 1] for k in range(atlas.z_dim)])
    return np.argsort(-effect, kind="stable").tolist(), effect


def topic_names(atlas: Atlas) -> list[str]:
    """Words of the topics of the schema."""
    if atlas.schema is None:
        raise ValueError("counterfactuals need a conditional model: train the preset cvae")
    found = [field.columns for field in atlas.schema.fields if field.kind == "topics"]
    return list(found[0]) if found else []


def metadata_row(atlas: Atlas, topic: int | None, year: int | None) -> Tensor:
    """Metadata (1, d_m) of one topic and one year; None for unknown."""
    values: dict[str, Any] = {} if year is None else {"year": year}
    if topic is not None:
        values["topics"] = np.eye(len(topic_names(atlas)), dtype=np.float32)[topic]
    return atlas.metadata(**values)


def _write(
    out: Path,
    atlas: Atlas,
    maps: NDArray[np.float64],
    kind: str,
    title: str,
    options: Mapping[str, Sequence[str]],
    code: str,
) -> None:
    """Render a page of maps (n, V), one per combination of the options, the last option fastest."""
    card = atlas.card
    data = {"kind": kind, "options": options, **_embedded(atlas.grid, maps)}
    facts = {
        "grid": card["grid"],
        "studies": card["scale"],
        "data": card["manifest"][:16],
        "code": code or card["code"],
    }
    html = environment().get_template("atlas.html.j2").render(
        title=title, kind=kind, statement=statement(card["scale"]), facts=facts,
        data=Markup(json.dumps(data).replace("<", "\\u003c")),
        style=Markup(template_text("atlas.css")),
        script=Markup(template_text("glass_brain.js") + template_text("atlas.js")),
    )  # fmt: skip
    if len(html) > LIMIT:
        raise ValueError(f"the page has {len(html) / 1e6:.1f} MB, the limit is {LIMIT / 1e6:g} MB: use atlas.grid 6mm")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)


def _embedded(grid: BrainGrid, maps: NDArray) -> dict[str, Any]:
    """Maps as bytes of a common scale, in base64, on the 6 mm grid, with the voxels of its mask."""
    coarse, maps = coarse_maps(grid, maps)
    return {**brain(coarse), "n": len(maps), **stored(maps)}


def coarse_maps(grid: BrainGrid, maps: NDArray) -> tuple[BrainGrid, NDArray]:
    """The 6 mm grid, and maps (n, V) on it."""
    coarse = brain_grid("6mm")
    if grid.name != coarse.name:
        voxels = grid.indices(coarse.centres_mm).clip(0, np.array(grid.shape) - 1)
        maps = grid.volume(maps)[(slice(None), *voxels.T)]
    return coarse, maps


def brain(grid: BrainGrid) -> dict[str, Any]:
    """Shape of a grid and the voxels of its mask, for the script of a page."""
    return {"shape": grid.shape, "voxels": _base64(np.flatnonzero(grid.mask).astype("<u4"))}


def stored(maps: NDArray) -> dict[str, Any]:
    """Maps (n, V) as bytes of a common scale, in base64."""
    low, high = min(0.0, float(maps.min())), float(maps.max())
    levels = np.rint(255 * (maps - low) / max(high - low, 1e-12)).astype(np.uint8)
    return {"low": low, "high": high, "maps": _base64(levels)}


def template_text(name: str) -> str:
    """A style sheet or script of the templates."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _base64(array: NDArray) -> str:
    return base64.b64encode(array.tobytes()).decode()


@functools.cache
def environment() -> Environment:
    """Environment of the templates of atlas pages, with HTML escaping."""
    return templating.environment(TEMPLATES, autoescape=True)
