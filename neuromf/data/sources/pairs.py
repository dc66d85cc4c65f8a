"""Pairs of image and lesion mask: in a BIDS folder, with the mask beside its image, or in any folder by file names.

Rows are those of the other sources, but `mask` is the lesion mask and `brain` the brain mask, if any. An image without
a lesion mask, such as that of a control, has a row with a problem.

References:
    Open presurgery MRI dataset (OpenNeuro ds004199), whose masks are named *_FLAIR_roi
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuromf.data.sources.bids import read_bids
from neuromf.data.sources.folder import find_mask, read_folder
from neuromf.data.sources.walk import find_scans, missing_reason

ENDS = (".nii.gz", ".nii")


def read_pairs(source: str, root: str | Path, **settings: Any) -> list[dict[str, Any]]:
    """Rows of a source.

    Arguments:
        source: "bids" (see `bids_pairs`) or "pairs" (see `folder_pairs`).
        root: Path of the folder.
        settings: Further arguments of `bids_pairs` or `folder_pairs`.

    Raises:
        ValueError: If the source is unknown, its root is no folder, or there is no image.
    """
    sources: dict[str, Callable[..., list[dict[str, Any]]]] = {"bids": bids_pairs, "pairs": folder_pairs}
    if source not in sources:
        raise ValueError(f"lesions.source of pairs on disk must be one of {', '.join(sources)}; got {source!r}")
    if not os.path.isdir(root):
        raise ValueError(f"lesions.{source}.root is {root}, which is no folder; set it to the folder of your images")
    return sources[source](root, **settings)


def bids_pairs(
    root: str | Path, *, suffix: str = "FLAIR", mask_suffix: str = "FLAIR_roi", brains: str | None = None
) -> list[dict[str, Any]]:
    """Images sub-*/[ses-*/]anat/*_{suffix}.nii.gz with their masks *_{mask_suffix}.nii.gz in the same folder.

    A mask has the name of its image up to the suffix. If the names differ (acq- is not always spelt alike), but the
    folder holds one image and one mask only, they are a pair.

    Arguments:
        root: Path of the BIDS folder.
        suffix: Suffix of the images.
        mask_suffix: Suffix of the lesion masks.
        brains: Path of the brain masks, as the argument `masks` of `read_bids`.
    """
    rows = [_with_brain(row) for row in read_bids(root, suffix=suffix, masks=brains)]
    folders = [str(Path(row["file"]).parent) if row["file"] else "" for row in rows]
    paired = [
        _add_mask(row, suffix, mask_suffix, single=folders.count(folder) == 1)
        for row, folder in zip(rows, folders, strict=True)
    ]
    return [row | {"scan": row["scan"].removesuffix(f"_{suffix}")} for row in paired]


def folder_pairs(
    root: str | Path,
    *,
    images: str = "*/*_FLAIR.nii.gz",
    scan_regex: str = "(?P<scan>(?P<participant>.+))_FLAIR",
    masks: str = "{scan}/{scan}_lesion.nii.gz",
    brains: str | None = None,
) -> list[dict[str, Any]]:
    """Images with any file names.

    Arguments:
        root: Path of the folder.
        images: Glob pattern of the images, relative to root.
        scan_regex: Regular expression, matched from the start of each file name, with groups scan, participant, site.
        masks: Path of a lesion mask relative to root, by {scan}, {participant} and {site}.
        brains: Path of a brain mask, in the same way.
    """
    rows = [_with_brain(row) for row in read_folder(root, images, scan_regex, masks=brains)]
    keys = ("scan", "participant", "site")
    return [row if row["problem"] else row | find_mask(Path(root), masks, **{k: row[k] for k in keys}) for row in rows]


def _with_brain(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "brain": row["mask"], "mask": ""}


def _add_mask(row: dict[str, Any], suffix: str, mask_suffix: str, *, single: bool) -> dict[str, Any]:
    """The row with the lesion mask in the folder of its image, or with a problem."""
    if row["problem"]:
        return row
    folder, stem = Path(row["file"]).parent, row["scan"].removesuffix(suffix) + mask_suffix
    found = [folder / f"{stem}{end}" for end in ENDS if os.path.lexists(folder / f"{stem}{end}")]
    if not found and single:
        found = find_scans(folder, *(f"*_{mask_suffix}{end}" for end in ENDS))
    if len(found) == 1:
        return row | {"mask": str(found[0]), "problem": missing_reason(found[0], "mask")}
    several = f"{len(found)} masks" if found else "no mask"
    return row | {"problem": f"missing mask: beside {Path(row['file']).name} is {several}, wanted {stem}.nii.gz"}
