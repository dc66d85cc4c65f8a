"""Counterfactual Machine as a Streamlit app.

NEUROMF_ATLAS=results/atlas/runs/cvae streamlit run neuromf/report/atlas/app.py

It needs pip install 'neuromf[atlas-pages]'. The static page shows the same without a server.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuromf.atlas.guards import statement
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.atlas.rates import decoded
from neuromf.report.atlas.pages import UNKNOWN, YEARS, metadata_row, topic_names

CHECKPOINT = "NEUROMF_ATLAS"  # environment variable with a run folder or checkpoint


def projections(atlas: Atlas, values: NDArray) -> list[NDArray]:
    """Sagittal, coronal and axial projections of a map in the mask, as images in [0, 1] with the top first."""
    volume = atlas.grid.volume(np.abs(values))
    return [volume.max(axis).T[::-1] / max(float(volume.max()), 1e-12) for axis in range(3)]


def main() -> None:
    """Draw the app."""
    import streamlit as st

    atlas = load_atlas(Path(os.environ[CHECKPOINT]))
    st.title("Counterfactual Machine")
    if note := statement(atlas.card["scale"]):
        st.warning(note)
    topics, rows = topic_names(atlas), []
    for column, name in zip(st.columns(2), "AB", strict=True):
        topic = column.selectbox(f"topic {name}", [UNKNOWN, *topics], index=min("AB".index(name), len(topics)))
        year = column.selectbox(f"year {name}", YEARS, format_func=lambda one: UNKNOWN if one is None else str(one))
        rows.append(metadata_row(atlas, None if topic == UNKNOWN else topics.index(topic), year))
    a, b = decoded(atlas, atlas.grid, torch.zeros(2, atlas.z_dim), torch.cat(rows))
    st.metric("correlation of A and B", f"{np.corrcoef(a, b)[0, 1]:.3f}")
    for title, values in (("A", a), ("B", b), ("B minus A, absolute", b - a)):
        st.subheader(title)
        for column, image in zip(st.columns(3), projections(atlas, values), strict=True):
            column.image(image, use_container_width=True)


if __name__ == "__main__":
    main()
