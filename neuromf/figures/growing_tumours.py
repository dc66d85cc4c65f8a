"""Figure F1 of the growth system: patients, their visits and the four contrasts, with the contour of the mass.

Columns are visits, rows are contrasts.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuromf.figures import style

N_PATIENTS, N_VISITS = 3, 3
MASS = (1, 3)
PERCENTILE = 99.5  # of the first visit's image, drawn white
LABEL_SIZE = 7


def render(
    index: str | Path,
    out: str | Path,
    *,
    modalities: list[str],
    label_map: dict[str, int],
    simulated: str = "",
    trajectories: str | Path | None = None,
    **provenance: Any,  # noqa: ANN401
) -> None:
    """Write the figure as out.pdf, out.png and out.json.

    Arguments:
        index: Folder of the splits; patients are those of train.csv with most visits.
        out: Path of the files without suffix.
        modalities: Modalities in the order of rows.
        label_map: Label codes beside 0 to 3.
        simulated: Statement that the data are simulated, written below the panels; "" for real data.
        trajectories: Table of scans with t_months and V_mm3, if there is one.
        provenance: Further values for the metadata of the files.
    """
    visits = choose_visits(pd.read_csv(Path(index) / "train.csv", dtype=str))
    facts = _scan_facts(trajectories)
    codes = [int(code) for code, label in ({str(k): k for k in range(4)} | label_map).items() if label in MASS]
    width = style.PAGE / max(len(visits), 4)
    figure = style.new(style.PAGE, 1.15 * width * len(modalities) + 0.55)
    axes = figure.subplots(len(modalities), len(visits), squeeze=False)
    column = 0
    for _, scans in visits.groupby("patient"):
        panels = axes[:, column : column + len(scans)]
        _draw_patient(panels, scans.to_dict("records"), modalities, codes)
        for panel, scan in zip(panels[0], scans["id"], strict=True):
            panel.set_title(facts.get(scan, scan), fontsize=LABEL_SIZE, pad=2)
        column += len(scans)
    for panel, name in zip(axes[:, 0], modalities, strict=True):
        panel.annotate(name, (-0.08, 0.5), xycoords="axes fraction", ha="right", va="center", rotation=90, fontsize=8)
    if simulated:
        figure.supxlabel(simulated, fontsize=LABEL_SIZE)
    style.save(figure, out, {"scans": visits["id"].tolist(), "simulated": simulated, **provenance})


def choose_visits(subjects: pd.DataFrame) -> pd.DataFrame:
    """First, middle and last scans of the patients with most scans; ties are broken by name."""
    counts = subjects.groupby("patient").size().sort_index().sort_values(ascending=False, kind="stable")
    chosen = []
    for patient in sorted(counts.index[:N_PATIENTS]):
        scans = subjects[subjects["patient"] == patient].sort_values("id")
        places = np.unique(np.linspace(0, len(scans) - 1, min(N_VISITS, len(scans))).round().astype(int))
        chosen.append(scans.iloc[places])
    return pd.concat(chosen)


def _scan_facts(trajectories: str | Path | None) -> dict[str, str]:
    """Patient, time and volume of each scan as text, by its id."""
    if trajectories is None:
        return {}
    rows = pd.read_csv(trajectories, sep="\t").to_dict("records")
    text = "{patient_id}\n{t_months:.0f} months\n{ml:.1f} ml"
    return {row["scan_id"]: text.format(**row, ml=row["V_mm3"] / 1000) for row in rows}


def _draw_patient(panels: NDArray, scans: list[dict[str, str]], modalities: list[str], codes: list[int]) -> None:
    """One axial slice of all visits, that of the largest cross-section at the last visit; one row per modality."""
    masses = [np.isin(_read(scan["seg"]), codes) for scan in scans]
    k = int(masses[-1].sum((0, 1)).argmax()) if masses[-1].any() else masses[-1].shape[2] // 2
    for row, name in zip(panels, modalities, strict=True):
        images = [_read(scan[name]) for scan in scans]
        white = np.percentile(images[0], PERCENTILE)
        for panel, image, mass in zip(row, images, masses, strict=True):
            _draw_slice(panel, image[:, :, k], mass[:, :, k], _box(images[0] > 0.1 * white), white)


def _box(brain: NDArray) -> tuple[slice, slice]:
    """Smallest box around a brain in the axial plane, with a margin of two voxels."""
    lines = [np.flatnonzero(brain.any((1, 2))), np.flatnonzero(brain.any((0, 2)))]
    i, j = (slice(max(0, line[0] - 2), line[-1] + 3) for line in lines)
    return i, j


def _draw_slice(panel: Axes, image: NDArray, mass: NDArray, box: tuple[slice, slice], white: float) -> None:
    panel.imshow(image[box].T, cmap="gray", vmin=0, vmax=white, origin="lower", interpolation="bilinear")
    if mass[box].any():
        panel.contour(mass[box].T, levels=[0.5], colors=[style.PALETTE[1]], linewidths=0.8)
    panel.set_axis_off()


def _read(path: str) -> NDArray:
    """An image (I, J, K) in RAS."""
    import nibabel as nib

    image: Any = nib.as_closest_canonical(nib.load(path))
    return image.get_fdata(dtype=np.float32)
