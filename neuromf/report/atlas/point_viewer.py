"""3D viewer of foci and their reconstruction by the point model: a page that opens from disk, without a server.

plotly.js lies once beside the pages, as plotly.min.js, and is shared by all of them.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from neuromf.atlas.guards import statement
from neuromf.atlas.point_examples import Example, examples
from neuromf.core.files import atomic_write, write_text
from neuromf.data.brain_grid import BrainGrid, brain_grid

LIBRARY = "plotly.min.js"
ORIGINAL, RECONSTRUCTED = "#d55e00", "#0173b2"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Foci and their reconstruction</title><script src="{library}"></script>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 1rem auto; padding: 0 1rem; max-width: 70rem; }}
h1 {{ font-size: 1.4rem; }} select {{ font: inherit; max-width: 100%; padding: .3rem; }}
#plot {{ width: 100%; height: min(70vh, 42rem); background: #fff; border-radius: 6px; }}
.o {{ color: {original}; }} .r {{ color: {reconstructed}; }} .stamp {{ font-weight: 600; }}
</style></head><body>
<h1>Foci and their reconstruction by the point model</h1>
<p class="stamp">{statement}</p>
<p><span class="o">&#9679;</span> reported foci, <span class="r">&#9670;</span> 30 points decoded from {z_dim} numbers.
Drag to rotate, scroll to zoom. MNI coordinates in mm.</p>
<label for="study">Test study</label><br><select id="study">{options}</select>
<p id="facts"></p><div id="plot"></div>
<p>Foci: Neurosynth, Open Database License (ODbL) 1.0. Studies are drawn at random from the test set.</p>
<script>
const shape = {mesh}, studies = {studies};
const axis = (title) => ({{title: {{text: title}}, showbackground: false, color: "#555", gridcolor: "#ddd"}});
const layout = {{margin: {{l: 0, r: 0, t: 0, b: 0}}, paper_bgcolor: "#fff", showlegend: false,
  scene: {{xaxis: axis("x, mm"), yaxis: axis("y, mm"), zaxis: axis("z, mm"), aspectmode: "data",
           camera: {{eye: {{x: 1.3, y: 1.1, z: .7}}}}}}}};
function dots(points, colour, symbol, name) {{
  const [x, y, z] = [0, 1, 2].map(k => points.map(p => p[k]));
  return {{type: "scatter3d", mode: "markers", x, y, z, name, marker: {{size: 5, color: colour, symbol}},
           hovertemplate: name + " (%{{x:.0f}}, %{{y:.0f}}, %{{z:.0f}})<extra></extra>"}};
}}
function show(k) {{
  const s = studies[k];
  document.getElementById("facts").textContent =
    `${{s.n_foci}} foci, ${{s.year}}; distance to the nearest point ${{s.chamfer_mm.toFixed(1)}} mm, mean of both ways`;
  Plotly.react("plot", [shape, dots(s.original, "{original}", "circle", "focus"),
    dots(s.reconstructed, "{reconstructed}", "diamond", "decoded")], layout, {{responsive: true, displaylogo: false}});
}}
document.getElementById("study").addEventListener("change", event => show(event.target.value));
show(0);
</script></body></html>
"""


def write_point_viewer(run: Path, studies: Path, out: Path, *, split: str = "test", n: int = 5, seed: int = 0) -> None:
    """Write the page of n studies, and plotly.js beside it.

    Arguments:
        run: Run folder or checkpoint of the point model.
        studies: Folder of studies.
        out: HTML file.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    found, scale, z_dim = examples(run, studies, split=split, n=n, seed=seed)
    options = "".join(f'<option value="{k}">{html.escape(one.title)}</option>' for k, one in enumerate(found))
    page = PAGE.format(
        library=LIBRARY, original=ORIGINAL, reconstructed=RECONSTRUCTED, statement=html.escape(statement(scale)),
        z_dim=z_dim, options=options, mesh=_json(brain_mesh(brain_grid("6mm"))),
        studies=_json([_values(one) for one in found]),
    )  # fmt: skip
    write_text(out, page)
    write_library(out.parent / LIBRARY)


def write_library(path: Path) -> None:
    """Write plotly.js."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(f"{error}; pages need it: pip install 'neuromf[atlas]'") from error
    with atomic_write(path) as part:
        part.write_text(get_plotlyjs(), encoding="utf-8")


def brain_mesh(grid: BrainGrid) -> dict[str, Any]:
    """Surface of the brain mask as a trace of plotly, in mm."""
    vertices, faces, _, _ = marching_cubes(grid.mask.astype(np.float32), 0.5)
    points = vertices @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    corners = dict(zip("xyz", points.round(1).T.tolist(), strict=True))
    triangles = dict(zip("ijk", faces.T.tolist(), strict=True))
    return {"type": "mesh3d", "color": "#999", "opacity": 0.12, "hoverinfo": "skip", **corners, **triangles}


def _values(one: Example) -> dict[str, Any]:
    return {"n_foci": one.n_foci, "year": one.year, "chamfer_mm": one.chamfer_mm / 2,
            "original": _rounded(one.original), "reconstructed": _rounded(one.reconstructed)}  # fmt: skip


def _rounded(points: NDArray) -> list:
    return points.astype(float).round(1).tolist()


def _json(values: Any) -> str:  # noqa: ANN401  # JSON
    import json

    return json.dumps(values, separators=(",", ":")).replace("</", "<\\/")
