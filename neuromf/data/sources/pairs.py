"""Images with lesion masks: from BIDS, where the mask lies beside its image, or from any folder by names.

Rows are those of the other sources, but `mask` is the mask of the lesion, and `brain` that of the brain, if there is
one. An image without a mask, such as that of a control, keeps its row and says so in `problem`.

References:
    Open presurgery MRI dataset (OpenNeuro ds004199), whose masks are named *_FLAIR_roi
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neuromf.data.sources.bids import read_bids
from neuromf.data.sources.folder import find_mask, read_folder

ENDS = (".nii.gz", ".nii")


def read_pairs(source: str, root: str | Path, **settings: Any) -> list[dict[str, Any]]:
    """The rows of a source "bids" or "pairs", with the settings of `bids_pairs` or `folder_pairs`.

    Raises:
        ValueError: If the source is unknown, its root no folder, or there is no image.
    """
    kinds: dict[str, Callable[..., list[dict[str, Any]]]] = {"bids": bids_pairs, "pairs": folder_pairs}
    if source not in kinds:
        raise ValueError(f"fcd.source of pairs on disk must be one of {', '.join(kinds)}; got {source!r}")
    if not os.path.isdir(root):
        raise ValueError(f"fcd.{source}.root is {root}, which is no folder; set it to where your images and masks are")
    return kinds[source](root, **settings)


def bids_pairs(
    root: str | Path, *, suffix: str = "FLAIR", mask_suffix: str = "FLAIR_roi", brains: str | None = None
) -> list[dict[str, Any]]:
    """Images sub-*/[ses-*/]anat/*_{suffix}.nii.gz and masks *_{mask_suffix}.nii.gz beside them.

    A mask has the name of its image up to the suffix. Where it has not, and image and mask are the only ones of their
    folder, they belong together all the same: acq- is not always spelt alike.

    Arguments:
        brains: Where brain masks lie, as `masks` of `read_bids`.
    """
    rows = [_with_brain(row) for row in read_bids(root, suffix=suffix, masks=brains)]
    folders = [str(Path(row["file"]).parent) if row["file"] else "" for row in rows]
    paired = [
        _beside(row, suffix, mask_suffix, alone=folders.count(folder) == 1)
        for row, folder in zip(rows, folders, strict=True)
    ]
    return [row | {"scan": row["scan"].removesuffix(f"_{suffix}")} for row in paired]


def folder_pairs(
    root: str | Path,
    *,
    images: str = "*/*_FLAIR.nii.gz",
    scan_regex: str = "(?P<scan>(?P<person>.+))_FLAIR",
    masks: str = "{scan}/{scan}_lesion.nii.gz",
    brains: str | None = None,
) -> list[dict[str, Any]]:
    """Images of any names.

    Arguments:
        images: A glob below root.
        scan_regex: Matched from the start of each file name, with groups scan, person and site.
        masks: Where the mask of a scan lies below root, by {scan}, {person} and {site}; brains likewise.
    """
    rows = [_with_brain(row) for row in read_folder(root, images, scan_regex, masks=brains)]
    named = ("scan", "person", "site")
    return [row if row["problem"] else row | find_mask(Path(root), masks, **{k: row[k] for k in named}) for row in rows]


def _with_brain(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "brain": row["mask"], "mask": ""}


def _beside(row: dict[str, Any], suffix: str, mask_suffix: str, *, alone: bool) -> dict[str, Any]:
    """The row with the mask that lies beside its image, or a problem."""
    if row["problem"]:
        return row
    folder, stem = Path(row["file"]).parent, row["scan"].removesuffix(suffix) + mask_suffix
    same = [folder / f"{stem}{end}" for end in ENDS if (folder / f"{stem}{end}").exists()]
    found = same or (_all_masks(folder, mask_suffix) if alone else [])
    if len(found) == 1:
        return row | {"mask": str(found[0])}
    several = f"{len(found)} masks" if found else "no mask"
    return row | {"problem": f"missing mask: beside {Path(row['file']).name} is {several}, wanted {stem}.nii.gz"}


def _all_masks(folder: Path, mask_suffix: str) -> Sequence[Path]:
    return sorted(path for end in ENDS for path in folder.glob(f"*_{mask_suffix}{end}"))
