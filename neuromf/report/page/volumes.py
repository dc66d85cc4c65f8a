"""Volumes that the page previews: samples from the same noise, test scans, their reconstructions, FLAIR with masks."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray

from neuromf.core.files import write_json
from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import volumes_of_split
from neuromf.figures import brains, contact_sheet
from neuromf.report.page import pictures, preview
from neuromf.vae.weights import load

TILES, COLUMNS = 120, 12  # contact sheet: largest number of scans, scans per row
WIDTH, SHEET_WIDTH = 640, 1500  # smallest width in pixels of the picture of a volume, and of the contact sheet

Item = tuple[dict[str, Any], NDArray]  # labels (set, image, case) and volume


def write_volumes(
    *,
    qc: Path,
    outliers: Path,
    weights: Path,
    samples: Sequence[Path],
    run: str,
    spacing_mm: float,
    n: int,
    pairs: Mapping[str, str] | None,
    out: Path,
) -> None:
    """Write the preview volumes (NIfTI), their pictures (WebP), the contact sheet and the index look.json.

    Names of scans are not written.

    Arguments:
        qc: Table of scans with columns scan, split, status and volume.
        outliers: Table of the contact sheet with columns scan and flag, outliers first.
        weights: Weights of the autoencoder.
        samples: Folders of samples, nfe-N for N network evaluations.
        run: Name of the run.
        spacing_mm: Isotropic voxel size in mm.
        n: Number of volumes of each set.
        pairs: Tables of FLAIR images with lesion masks by set, "test" and "samples"; empty without lesions.
        out: Folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    scans = read_table(qc)
    t1 = [*sample_items(samples, n), *scan_items(scans, weights, n)]
    flair = [item for name, path in (pairs or {}).items() for item in pair_items(name, Path(path), n)]
    volumes = [labels for items in (t1, flair) if items for labels in write_items(items, out, spacing_mm)]
    sheet = write_contact_sheet(scans, read_table(outliers), out / "scans.webp", spacing_mm)
    write_json(out / "look.json", {"run": run, "spacing_mm": spacing_mm, "volumes": volumes, "scans": sheet})


def sample_items(folders: Sequence[Path], n: int) -> Iterator[Item]:
    """The first n samples at each NFE; sample k of every NFE starts from the same noise."""
    for folder in folders:
        for k, row in enumerate(read_table(folder / "samples.tsv")[:n].to_dict("records")):
            nfe = int(folder.name.removeprefix("nfe-"))
            yield {"set": "samples", "image": "T1", "case": k, "nfe": nfe}, read_volume(row["file"])[0]


def scan_items(scans: pd.DataFrame, weights: Path, n: int) -> Iterator[Item]:
    """The first n test scans and their reconstructions from the posterior mean."""
    vae = load(weights)
    for k, file in enumerate(volumes_of_split(scans, "test")[:n]):
        volume = read_volume(file)[0]
        with torch.no_grad():
            mean = vae.encode(torch.from_numpy(volume)[None, None])[0]
            reconstruction = vae.decode(mean)[0, 0].float().numpy()
        yield {"set": "test", "image": "T1", "case": k}, volume
        yield {"set": "reconstruction", "image": "T1", "case": k}, reconstruction


def pair_items(name: str, path: Path, n: int) -> Iterator[Item]:
    """FLAIR image and lesion mask of the first n pairs of a table that are not in training."""
    rows = (row for row in read_table(path).to_dict("records") if row.get("split") != "train")
    for k, row in enumerate(islice(rows, n)):
        yield {"set": name, "image": "FLAIR", "case": k}, read_volume(row["image"])[0]
        yield {"set": name, "image": "mask", "case": k}, read_volume(row["mask"])[0]


def write_items(items: Sequence[Item], out: Path, spacing_mm: float) -> Iterator[dict[str, Any]]:
    """Write volumes and pictures with one common crop; yield the labels of each, with the centre of its lesion."""
    crop = brains.box([volume for labels, volume in items if labels["image"] != "mask"])
    masks = {(labels["set"], labels["case"]): volume for labels, volume in items if labels["image"] == "mask"}
    for labels, volume in items:
        name = "-".join(str(value) for value in labels.values())
        mask = masks.get((labels["set"], labels["case"]))
        centre = None if mask is None else preview.mask_centre(mask, crop)
        encode = pictures.overlay if labels["image"] == "mask" else pictures.grey
        (out / f"{name}.nii.gz").write_bytes(preview.nifti(volume, crop, spacing_mm))
        (out / f"{name}.webp").write_bytes(encode(preview.planes(volume, crop, spacing_mm, centre), WIDTH))
        yield {**labels, "name": name, **({"centre": centre} if centre else {})}


def write_contact_sheet(scans: pd.DataFrame, outliers: pd.DataFrame, out: Path, spacing_mm: float) -> dict[str, int]:
    """Write tiles of the accepted scans, outliers first; return the numbers of accepted, shown and outlying scans."""
    files = scans[scans["status"] == "accepted"].set_index("scan")["volume"]
    names = outliers["scan"].tolist()[:TILES]
    tiles = [contact_sheet.tile(read_volume(files[name])[0], spacing_mm) for name in names]
    if tiles:
        out.write_bytes(pictures.grey(preview.montage(tiles, COLUMNS), SHEET_WIDTH))
    return {"accepted": len(files), "shown": len(tiles), "outliers": int((outliers["flag"] != "").sum())}
