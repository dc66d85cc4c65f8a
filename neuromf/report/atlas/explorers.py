"""Dual-View Confidence Explorer, Hierarchy Explorer and Zeitgeist timeline: pages that need no server.

Everything is inside the page; a content security policy forbids the browser to load anything.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from neuromf.atlas.ensemble import load_ensemble
from neuromf.atlas.guards import statement
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.point_examples import examples
from neuromf.atlas.rates import FWHM_MM
from neuromf.atlas.studies import read_studies
from neuromf.atlas.timeline import mean_change, rising_topics
from neuromf.atlas.uncertainty import predicted_maps
from neuromf.core.files import write_text
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.report.atlas.pages import LIMIT, brain, coarse_maps, environment, stored, template_text

N_SURFACE = 1500  # points of the brain's surface in the point pane
N_STUDIES = 8


def write_confidence(
    *, run: Path, checkpoint: Path, points: Path, studies: Path, out: Path, seed: int = 0, code: str = ""
) -> None:
    """Write the page of test studies: mean, epistemic and aleatoric map beside their foci in 3D.

    Arguments:
        run: Run folder of the ensemble.
        checkpoint: Volume model that it decodes.
        points: Checkpoint of the point model.
        studies: Folder of studies.
        out: HTML file.
        code: Digest of the code, stated at the foot.
    """
    ensemble, everything = load_ensemble(run, checkpoint), read_studies(studies)
    found, scale, _ = examples(points, studies, n=N_STUDIES, seed=seed)
    some = everything.take([_row(everything.table, one.title, one.year, one.n_foci) for one in found])
    maps = predicted_maps(ensemble, some, kernel_maps(some, ensemble.atlas.grid, FWHM_MM, dtype=np.float32))
    layers = {"mean": maps["mean"], "epistemic": np.sqrt(maps["epistemic_unc"]),
              "aleatoric": np.sqrt(maps["aleatoric_unc"])}  # fmt: skip
    fraction = maps["epistemic_unc"].sum(1) / (maps["epistemic_unc"] + maps["aleatoric_unc"]).sum(1)
    coarse = brain_grid("6mm")
    data = {**brain(coarse), "surface": surface(coarse),
            "layers": {name: stored(coarse_maps(ensemble.atlas.grid, values)[1]) for name, values in layers.items()},
            "studies": [{"title": one.title, "year": one.year, "n_foci": one.n_foci, "chamfer_mm": one.chamfer_mm / 2,
                         "original": _rounded(one.original), "reconstructed": _rounded(one.reconstructed),
                         "epistemic_fraction": float(part)}
                        for one, part in zip(found, fraction, strict=True)]}  # fmt: skip
    lead = ("A test study: its predicted map with two kinds of uncertainty, beside its foci and their reconstruction. "
            "Epistemic: the members of the ensemble disagree. Aleatoric: studies with one latent differ.")  # fmt: skip
    write_page(out, "confidence", "Dual-View Confidence Explorer", data, scale, lead=lead,
               facts={"members": len(ensemble.members), "data": ensemble.card["manifest"][:16], "code": code},
               note="Standard deviations are those of kernel map values, 12 mm.")  # fmt: skip


def _row(table: Any, title: str, year: int, n_foci: int) -> int:  # noqa: ANN401  # a DataFrame
    """Row of the test study with this title, year and number of foci."""
    same = (
        (table["title"] == title) & (table["year"] == year) & (table["n_foci"] == n_foci) & (table["split"] == "test")
    )
    return int(np.flatnonzero(same.to_numpy())[0])


def surface(grid: BrainGrid) -> list:
    """Some centres of voxels at the border of the mask in mm."""
    padded = np.pad(grid.mask, 1)
    inside = np.ones_like(grid.mask)
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    border = grid.centres_mm[~inside[grid.mask]]
    return _rounded(border[np.random.default_rng(0).permutation(len(border))[:N_SURFACE]])


def write_hierarchy_page(*, gate: Path, tree: Path, out: Path, code: str = "") -> None:
    """Write the page of the tree of topics with the map of each node, and the stage gate.

    Arguments:
        gate: JSON file of the stage gate.
        tree: File of `neuromf.atlas.hierarchy.write_hierarchy`.
    """
    verdict = json.loads(Path(gate).read_text(encoding="utf-8"))
    with np.load(tree) as found:
        values = {name: found[name] for name in found.files}
    grid = brain_grid("6mm")
    data = {**brain(grid), **stored(coarse_maps(_grid_of(values["maps"]), values["maps"])[1]),
            "children": values["children"].tolist(), "heights": values["heights"].tolist(),
            "words": values["words"].tolist(), "verdict": verdict["verdict"]}  # fmt: skip
    rows = [{"criterion": row["what"], "kind": row["kind"], "measured": f"{row['measured']:.3g}",
             "bound": f"{row['side']} {row['bound']:.3g}", "passed": "yes" if row["passed"] else "no"}
            for row in verdict["criteria"]]  # fmt: skip
    lead = ("Topics joined by their mean position in the top latents of the hierarchical VAE. The map of a node is "
            "decoded from the mean position of its topics.")  # fmt: skip
    write_page(out, "hierarchy", "Hierarchy Explorer", data, verdict["scale"], lead=lead, rows=rows,
               caption=f"Stage gate of the hierarchy: {verdict['verdict']}",
               facts={"data": verdict["manifest"][:16], "code": code},
               note="Maps: kernel map values, 12 mm.")  # fmt: skip


def _grid_of(maps: NDArray) -> BrainGrid:
    """The grid whose mask has as many voxels as maps (n, V)."""
    return next(grid for grid in map(brain_grid, ("6mm", "2mm")) if grid.n_voxels == maps.shape[1])


def write_timeline_page(*, timeline: Path, out: Path, code: str = "") -> None:
    """Write the page with one frame per year.

    Arguments:
        timeline: File of `neuromf.atlas.timeline.write_timeline`.
    """
    with np.load(timeline) as found:
        values = {name: found[name] for name in found.files}
    grid, n = _grid_of(values["maps"]), values["n"]
    maps = coarse_maps(grid, values["maps"])[1]
    position = values["position"]
    positions = [_rounded(position[values["position_year"] == year], 2) for year in values["years"]]
    data = {**brain(brain_grid("6mm")), **stored(maps), "change": stored(mean_change(maps, n)),
            "years": values["years"].tolist(), "n": n.tolist(), "positions": positions,
            "box": [float(v) for v in (*_range(position[:, 0]), *_range(position[:, 1]))],
            "topics": [{"name": str(values["words"][t]), "values": _by_year(values["topics"][:, t], n > 0)}
                       for t in rising_topics(values["topics"], n)],
            "drift": _drift(values)}  # fmt: skip
    lead = ("One frame per year: the mean decoded map of the year's studies, what changed against the other years, the "
            "topics, and where the studies are in the latent space.")  # fmt: skip
    scale = str(values["scale"])
    note = f"Maps: rates that sum to 1. Axes of the latent space: {values['projection']}, fitted to training studies."
    write_page(out, "timeline", "Zeitgeist", data, scale, lead=lead, note=note,
               facts={"data": str(values["manifest"])[:16], "code": code})  # fmt: skip


def _drift(values: Mapping[str, NDArray]) -> list[dict[str, Any]]:
    """Series of raw and unbiased distances by year, None where they are not known."""
    series = []
    for name in ("raw", "unbiased"):
        known = dict(zip(values["drift_year"].tolist(), values[f"drift_{name}"].tolist(), strict=True))
        series.append({"name": name, "values": [known.get(year) for year in values["years"].tolist()]})
    return series


def _range(values: NDArray) -> tuple[float, float]:
    return float(values.min()), float(max(values.max(), values.min() + 1e-6))


def _by_year(values: NDArray, known: NDArray) -> list[float | None]:
    return [float(v) if valid else None for v, valid in zip(values, known, strict=True)]


def _rounded(points: NDArray, digits: int = 1) -> list:
    return points.astype(float).round(digits).tolist()


def write_page(
    out: Path, kind: str, title: str, data: Mapping[str, Any], scale: str, *, lead: str, note: str,
    facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = (), caption: str = "",
) -> None:  # fmt: skip
    """Render an explorer with its data and the script `kind`.js.

    Raises:
        ValueError: If the page is larger than the limit.
    """
    html = environment().get_template("explorer.html.j2").render(
        title=title, kind=kind, statement=statement(scale), lead=lead, note=note, rows=rows, caption=caption,
        facts={"studies": scale, **facts}, data=Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
        style=Markup(template_text("atlas.css") + template_text("explorer.css")),
        script=Markup("".join(template_text(name) for name in ("glass_brain.js", "explorer.js", f"{kind}.js"))),
    )  # fmt: skip
    if len(html) > LIMIT:
        raise ValueError(f"the page has {len(html) / 1e6:.1f} MB, the limit is {LIMIT / 1e6:g} MB")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)
