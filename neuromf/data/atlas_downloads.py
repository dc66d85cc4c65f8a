"""Downloads of the atlas: Neurosynth version 7 and statistical maps of NeuroVault, by address and SHA-256; they resume.

Pain maps are published as contrast and variance of each study; the t map is contrast / sqrt(variance).
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from neuromf.core.files import atomic_write
from neuromf.data import licences
from neuromf.data.download import download, show_licence
from neuromf.data.neurosynth import COORDINATES, KEYS, KNOWN, METADATA, TOPICS, read_neurosynth
from neuromf.data.statistical_maps import BUTTON_PRESS

logger = logging.getLogger(__name__)

VOCABULARY = "LDA50"
NEUROSYNTH_FILES = [COORDINATES, METADATA, TOPICS.format(vocabulary=VOCABULARY), KEYS.format(vocabulary=VOCABULARY)]


def fetch_neurosynth(folder: str | Path, *, address: str, sha256: Mapping[str, str]) -> None:
    """Download the files of Neurosynth version 7 into a folder, and read them.

    Arguments:
        folder: Folder, missing or from an earlier call; files that are there are verified and used.
        address: Address of the folder of the files.
        sha256: Expected SHA-256 by file name; the digest of another file is recorded, and expected next time.

    Raises:
        FetchError: If a file cannot be downloaded or has another digest.
        ValueError: If the tables do not belong together.
    """
    show_licence(**licences.NEUROSYNTH)
    for name in NEUROSYNTH_FILES:
        download(f"{address.rstrip('/')}/{name}", Path(folder) / name, sha256=sha256.get(name))
    tables = read_neurosynth(folder)
    if (len(tables.metadata), len(tables.coordinates)) not in KNOWN:
        logger.warning("the files hold neither the complete version 7 nor its shared part")


def fetch_statistical_maps(
    folder: str | Path,
    *,
    button_press: str,
    pain: str,
    pain_studies: Sequence[int],
    design_rows: Sequence[int],
    sha256: Mapping[str, str],
) -> None:
    """Download the button-press map and the pain maps into a folder, and write maps.tsv.

    Arguments:
        button_press: Address of NeuroVault image 10426.
        pain: Address of the folder of contrast_pain_{study}.nii.gz and var_pain_{study}.nii.gz.
        pain_studies, design_rows: Number and rows of the design matrix of each study.
        sha256: Expected SHA-256 by file name; the digest of another file is recorded, and expected next time.

    Raises:
        FetchError: If a file cannot be downloaded or has another digest.
    """
    folder = Path(folder)
    show_licence(**licences.NEUROVAULT)
    download(button_press, folder / BUTTON_PRESS, sha256=sha256.get(BUTTON_PRESS))
    names = [f"pain21/pain_{study:02d}_t.nii.gz" for study in pain_studies]
    for study, name in zip(pain_studies, names, strict=True):
        contrast, variance = (f"{kind}_pain_{study:02d}.nii.gz" for kind in ("contrast", "var"))
        for published in (contrast, variance):
            download(f"{pain.rstrip('/')}/{published}", folder / "pain21" / published, sha256=sha256.get(published))
        write_t_map(folder / "pain21" / contrast, folder / "pain21" / variance, folder / name)
    with atomic_write(folder / "maps.tsv") as part:
        pd.DataFrame({"map": names, "design_rows": list(design_rows)}).to_csv(part, sep="\t", index=False)


def write_t_map(contrast: Path, variance: Path, out: Path) -> None:
    """Write contrast / sqrt(variance), 0 where the variance is 0 or not finite."""
    effect, spread = (nib.Nifti1Image.from_filename(path) for path in (contrast, variance))
    values, squared = (image.get_fdata(dtype=np.float32) for image in (effect, spread))
    valid = np.isfinite(values) & np.isfinite(squared) & (squared > 0)
    t = np.where(valid, values / np.sqrt(np.where(valid, squared, 1)), 0).astype(np.float32)
    with atomic_write(out) as part:  # nibabel chooses the format by the suffix
        named = part.with_name(f"{part.name}.nii.gz")
        nib.save(nib.Nifti1Image(t, effect.affine), named)
        named.rename(part)
