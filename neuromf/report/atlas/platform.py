"""Complete Discovery Platform: one page that opens from disk, with voxel to insight, figures, pages and downloads.

The page holds the fields of `neuromf.atlas.voxel_table` for every voxel of the 6 mm mask, thumbnails of the figures,
and relative links to the other pages and to the exported files; it loads nothing. A link whose file is missing is an
error when the page is written.
"""

import base64
import html
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from neuromf.atlas import baselines, guards
from neuromf.atlas.inference import load_atlas
from neuromf.atlas.query import REGIONS
from neuromf.atlas.studies import Studies, read_studies
from neuromf.atlas.voxel_table import voxel_table
from neuromf.core.files import write_text
from neuromf.data.brain_grid import BrainGrid, brain_grid
from neuromf.report.atlas.pages import LIMIT, TEMPLATES, environment

THUMBNAIL = 640  # pixels, width of embedded figures
TITLE = 90  # most characters of a study's title
KINDS = {
    ".csv": "CSV", ".parquet": "Parquet", ".onnx": "ONNX", ".gz": "NIfTI", ".json": "JSON", ".md": "Markdown",
    ".pdf": "PDF", ".txt": "text",
}  # fmt: skip


def write_platform(
    *, studies: str | Path, checkpoint: str | Path, results: str | Path, pages: Sequence[str | Path],
    figures: Sequence[str | Path], downloads: Sequence[str | Path], gates: Sequence[str | Path], out: str | Path,
    code: str = "",
) -> None:  # fmt: skip
    """Write the page.

    Arguments:
        studies: Folder of studies.
        checkpoint: Checkpoint of the volume model.
        results: test_results.json of the evaluation.
        pages: HTML pages to link; title and lead are read from them.
        figures: PNG files to show; each stands beside a PDF of its name.
        downloads: Files, or folders of files, to link.
        gates: Gates of the stages.
        out: HTML file.
        code: Digest of the code, stated at the foot.

    Raises:
        ValueError: If scales are mixed, a linked file is missing, or the page is too large.
    """
    out, everything, atlas = Path(out), read_studies(studies), load_atlas(checkpoint)
    guards.require_stage(everything.scale, guards.LAST_STAGE, str(studies))
    guards.common_scale({"studies": everything.scale, "checkpoint": str(atlas.card["scale"])})
    grid = atlas.grid if atlas.grid.name == "6mm" else brain_grid("6mm")
    density = baselines.global_rate(everything.take(everything.rows("train")), grid)
    table = voxel_table(everything, grid, density, atlas if grid is atlas.grid else None)
    files = [file for path in map(Path, downloads) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    page = environment().get_template("platform.html.j2").render(
        statement=guards.statement(everything.scale),
        headlines=headlines(json.loads(Path(results).read_text(encoding="utf-8"))),
        pages=[describe_page(Path(path)) | {"href": link(path, out)} for path in pages],
        figures=[figure_of(Path(path), out) for path in figures],
        downloads=download_groups(files, out),
        gates=[gate_of(Path(path)) for path in gates],
        facts={"studies": f"{len(everything):,} ({everything.scale})", "foci": f"{len(everything.points):,}",
               "data": str(atlas.card["manifest"])[:16], "code": code or str(atlas.card["code"])},
        data=Markup(json.dumps(embed(table, everything, grid, density)).replace("<", "\\u003c")),
        style=Markup((TEMPLATES / "atlas.css").read_text(encoding="utf-8")),
        more_style=Markup((TEMPLATES / "platform.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "platform.js").read_text(encoding="utf-8")),
    )  # fmt: skip
    if len(page) > LIMIT:
        raise ValueError(f"the page has {len(page) / 1e6:.1f} MB, the limit is {LIMIT / 1e6:g} MB")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def link(path: str | Path, page: Path) -> str:
    """Relative address of a file from a page.

    Raises:
        ValueError: If the file is missing.
    """
    if not Path(path).is_file():
        raise ValueError(f"{page.name} links {path}, which does not exist: make it first")
    return Path(os.path.relpath(path, page.parent)).as_posix()


def describe_page(path: Path) -> dict[str, str]:
    """Title of an HTML page, and its first paragraph of class lead, without tags."""
    text = path.read_text(encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", text, re.S)
    lead = re.search(r'<p class="lead">(.*?)</p>', text, re.S)
    plain = re.sub(r"<[^>]+>", "", lead[1]) if lead else ""
    return {
        "title": html.unescape(title[1].strip()) if title else path.stem,
        "lead": " ".join(html.unescape(plain).split()),
    }


def figure_of(path: Path, page: Path) -> dict[str, str]:
    """A figure as an embedded JPEG of THUMBNAIL pixels, with the address of its PDF, or of the picture without one."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((THUMBNAIL, 4 * THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    full = path.with_suffix(".pdf") if path.with_suffix(".pdf").is_file() else path
    width, height = map(str, image.size)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    name = path.stem.replace("fig_", "F")
    return {"name": name, "href": link(full, page), "width": width, "height": height, "source": source}


def download_groups(files: Sequence[Path], page: Path) -> dict[str, list[dict[str, str]]]:
    """Links with kind and size, grouped by the folder of the file."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in files:
        size = path.stat().st_size if path.is_file() else 0
        row = {"name": path.name, "href": link(path, page), "kind": KINDS.get(path.suffix, path.suffix[1:]),
               "size": f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"}  # fmt: skip
        found.setdefault(path.parent.name, []).append(row)
    return found


def gate_of(path: Path) -> dict[str, Any]:
    """Name, status and number of passed rows of a gate."""
    gate = json.loads(path.read_text(encoding="utf-8"))
    rows = gate.get("rows", gate.get("criteria", []))
    return {"name": path.stem.replace("_", " "), "status": gate["status"], "n": len(rows)}


def headlines(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Paired differences to the best classical model, in bits per focus, with their intervals."""
    found = []
    for mode, text in (("conditional", "from metadata alone"), ("completion", "from half of a study's foci")):
        row = results["bits"][mode]["difference"]
        found.append({"value": f"{row['value']:+.3f}", "interval": f"{row['low']:+.3f} to {row['high']:+.3f}",
                      "text": f"bits per focus against the best classical model, {text}"})  # fmt: skip
    return found


def embed(table: Mapping[str, NDArray], studies: Studies, grid: BrainGrid, global_rate: NDArray) -> dict[str, Any]:
    """The table of voxels, foci density, grid and names as JSON values; arrays are base64 of small integers."""
    z = np.nan_to_num(np.clip(table["topic_z"] * 100, -32767, 32767), nan=-32768)
    slope = table["trend"] * 1e4 * 100  # hundredths of studies in ten thousand, per year
    level = np.rint(255 * np.sqrt(global_rate / global_rate.max()))
    arrays = {
        "region": (table["region"], "<u1"), "n_studies": (table["n_studies"], "<u2"),
        "topics": (table["topics"], "<u1"), "topic_z": (z, "<i2"), "latents": (table["latents"], "<u1"),
        "coactivation": (table["coactivation"], "<i2"), "nearest": (table["nearest"], "<u2"),
        "trend": (np.clip(np.rint(slope), -32767, 32767), "<i2"), "novelty": (np.rint(table["novelty"] * 255), "<u1"),
        "density": (level, "<u1"), "voxels": (np.flatnonzero(grid.mask), "<u4"),
    }  # fmt: skip
    used = np.unique(table["nearest"])
    titles = studies.table["title"].astype(str).str.slice(0, TITLE)
    return {
        "shape": list(grid.shape), "origin": grid.affine[:3, 3].tolist(), "spacing": np.diag(grid.affine)[:3].tolist(),
        "regions": ["", *REGIONS], "topic_words": list(studies.topic_words),
        "studies": {int(k): [str(studies.table["id"].iloc[k]), int(studies.table["year"].iloc[k]), titles.iloc[k]]
                    for k in used},
        "arrays": {name: {"columns": 1 if values.ndim == 1 else values.shape[1], "dtype": dtype[1:],
                          "data": base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode()}
                   for name, (values, dtype) in arrays.items()},
    }  # fmt: skip
