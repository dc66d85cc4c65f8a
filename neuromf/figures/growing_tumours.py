"""Figure F1 of the growth system: patients, their visits and the four contrasts, with the contour of the mass."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neuromf.figures import style

N_PATIENTS, N_VISITS = 3, 3
MASS = (1, 3)
PERCENTILE = 99.5  # of the image, drawn white
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
        modalities: Modalities in the order of columns.
        label_map: Label codes beside 0 to 3.
        simulated: Statement that the data are simulated, written below the panels; "" for real data.
        trajectories: Table of scans with t_months and V_mm3, if there is one.
        provenance: Further values for the metadata of the files.
    """
    subjects = pd.read_csv(Path(index) / "train.csv", dtype=str)
    visits = choose_visits(subjects)
    facts = _scan_facts(trajectories)
    figure = style.new(1.32 * len(modalities) + 0.9, 1.32 * len(visits) + 0.4)
    axes = figure.subplots(len(visits), len(modalities), squeeze=False)
    codes = [code for code, label in ({str(k): k for k in range(4)} | label_map).items() if label in MASS]
    for row, (panels, visit) in enumerate(zip(axes, visits.to_dict("records"), strict=True)):
        _draw_visit(panels, visit, modalities, [int(code) for code in codes])
        panels[0].set_title(facts.get(visit["id"], visit["id"]), fontsize=LABEL_SIZE, loc="left", pad=2)
        for panel, name in zip(panels, modalities, strict=True):
            if row == 0:
                panel.annotate(name, (0.5, 1.16), xycoords="axes fraction", ha="center", fontsize=8)
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
    """Time and volume of each scan as text, by its id."""
    if trajectories is None:
        return {}
    table = pd.read_csv(trajectories, sep="\t")
    return {
        row["scan_id"]: f"{row['scan_id']}: {row['t_months']:.0f} months, {row['V_mm3'] / 1000:.1f} ml"
        for row in table.to_dict("records")
    }


def _draw_visit(panels: NDArray, visit: dict[str, str], modalities: list[str], codes: list[int]) -> None:
    """Axial slices through the largest cross-section of the mass, one panel per modality."""
    mass = np.isin(_read(visit["seg"]), codes)
    k = int(mass.sum((0, 1)).argmax()) if mass.any() else mass.shape[2] // 2
    for panel, name in zip(panels, modalities, strict=True):
        _draw_slice(panel, _read(visit[name]), mass, k)


def _draw_slice(panel: Axes, image: NDArray, mass: NDArray, k: int) -> None:
    panel.imshow(image[:, :, k].T, cmap="gray", vmin=0, vmax=np.percentile(image, PERCENTILE), origin="lower")
    if mass[:, :, k].any():
        panel.contour(mass[:, :, k].T, levels=[0.5], colors=[style.PALETTE[1]], linewidths=0.8)
    panel.set_axis_off()


def _read(path: str) -> NDArray:
    """An image (I, J, K) in RAS."""
    import nibabel as nib

    image: Any = nib.as_closest_canonical(nib.load(path))
    return image.get_fdata(dtype=np.float32)
