"""Pick the few volumes that the page shows: samples of the same noise, held-out people and their round trip."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from neuromf.data.nifti import read_volume
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import of_split
from neuromf.figures import brains, contact_sheet
from neuromf.report.page import pictures, preview
from neuromf.vae.weights import load
from workflow_scripts._cli import arguments

TILES, COLUMNS = 120, 12  # of the picture of all scans, at most
WIDTH, SHEET = 640, 1500  # pixels of the picture of a volume, and of that of all scans, at least

Item = tuple[dict, NDArray]  # what a volume is, and the volume


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "odd", "weights", "samples:paths", "config:json", "out")
    qc, cfg = read_table(args.qc), args.config
    args.out.mkdir(parents=True, exist_ok=True)
    t1 = [*samples(args.samples, cfg["n"]), *real(qc, args.weights, cfg["n"])]
    flair = list(pairs(n=cfg["n"], **cfg["pairs"])) if cfg["pairs"] else []
    volumes = [line for items in (t1, flair) if items for line in write(items, args.out, cfg["spacing_mm"])]
    sheet = scans(qc, read_table(args.odd), args.out / "scans.webp", cfg["spacing_mm"])
    about = {"run": cfg["run"], "spacing_mm": cfg["spacing_mm"], "volumes": volumes, "scans": sheet}
    (args.out / "look.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


def samples(folders: Sequence[Path], n: int) -> Iterator[Item]:
    """The first samples of each number of evaluations: sample k of each is of the same noise."""
    for folder in folders:
        table = read_table(folder / "samples.tsv")[:n]
        for k, row in enumerate(table.to_dict("records")):
            about = {"set": "generated", "case": k, "evaluations": int(folder.name.removeprefix("nfe-"))}
            yield {**about, "seed": row["seed"]}, read_volume(row["file"])[0]


def real(qc: pd.DataFrame, weights: Path, n: int) -> Iterator[Item]:
    """The first held-out people, and what the autoencoder makes of them; their names stay behind."""
    net = load(weights)
    for k, file in enumerate(of_split(qc, "test")[:n]):
        volume = read_volume(file)[0]
        with torch.no_grad():
            mean = net.encode(torch.from_numpy(volume)[None, None])[0]
            back = net.decode(mean)[0, 0].float().numpy()
        yield {"set": "real", "case": k}, volume
        yield {"set": "vae", "case": k}, back


def pairs(real: Path, generated: Path, n: int) -> Iterator[Item]:
    """FLAIR and lesion mask of the first pairs that are not in training, and of the first generated ones."""
    listed = {"real": read_table(real), "generated": read_table(generated)}
    listed["real"] = listed["real"][listed["real"]["split"] != "train"]
    for name, table in listed.items():
        for k, row in enumerate(table[:n].to_dict("records")):
            yield {"set": f"{name} flair", "case": k}, read_volume(row["image"])[0]
            yield {"set": f"{name} mask", "case": k}, read_volume(row["mask"])[0]


def write(items: Sequence[Item], out: Path, spacing_mm: float) -> Iterator[dict]:
    """Volumes and pictures of them in one crop; what each is, and where to look first, if there is a lesion."""
    crop = brains.box([volume for about, volume in items if "mask" not in about["set"]])
    masks = {(about["set"], about["case"]): volume for about, volume in items if "mask" in about["set"]}
    for about, volume in items:
        name = "-".join(str(about[key]) for key in ("set", "case", "evaluations") if key in about).replace(" ", "-")
        mask = masks.get((about["set"].replace("flair", "mask"), about["case"]))
        at = None if mask is None else preview.middle(mask, crop)
        picture = pictures.veil if "mask" in about["set"] else pictures.grey
        (out / f"{name}.nii.gz").write_bytes(preview.packed(volume, crop, spacing_mm))
        (out / f"{name}.webp").write_bytes(picture(preview.planes(volume, crop, spacing_mm, at), WIDTH))
        yield {**about, "name": name, **({"at": at} if at else {})}


def scans(qc: pd.DataFrame, odd: pd.DataFrame, out: Path, spacing_mm: float) -> dict[str, int]:
    """Tiles of the accepted scans, the odd ones first, without names; how many there are, shown, and odd."""
    files = qc[qc["status"] == "accepted"].set_index("scan")["volume"]
    shown = odd["scan"].tolist()[:TILES]
    tiles = [contact_sheet.tile(read_volume(files[name])[0], spacing_mm) for name in shown]
    if tiles:
        out.write_bytes(pictures.grey(preview.montage(tiles, COLUMNS), SHEET))
    return {"of": len(files), "shown": len(tiles), "odd": int(np.sum(odd["flag"] != ""))}


if __name__ == "__main__":
    main()
