"""Measured values of the stage gates, read from result files; bounds are in `neuromf/config/criteria.yaml`."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from neuromf.atlas.studies import SPLITS, near_duplicates, read_studies
from neuromf.core.files import sha256
from neuromf.data.brain_grid import brain_grid
from neuromf.data.talairach import mni_to_tal, tal_to_mni

Files = dict[str, Path]
Rows = Iterator[tuple[str, float, str]]  # id, value, name of the file that holds it

MNI152 = 4  # NIfTI code of the space
DUPLICATE_RATE = {507891: 0.119, 334476: 0.115}  # by number of foci: complete version 7 and its shared part


def measure(stage: int, files: Files) -> list[dict]:
    """Rows with id, value and source for the criteria of a stage whose files are given."""
    return [
        {"id": name, "value": float(value), "source": str(files[file])}
        for part in STAGES[stage]
        for name, value, file in part(files)
    ]


def coordinates(files: Files) -> Rows:
    log = json.loads((files["studies"] / "coordinate_log.json").read_text())
    counts, summary = log["deduplication"], log["summary"]
    if (reference := DUPLICATE_RATE.get(counts["original"])) is not None:
        yield "S1-A03", abs(counts["rate"] - reference), "studies"
    decisions = summary.get("TAL", {}).get("decisions", {})
    yield "S1-A05", decisions.get("flagged", 0) / max(sum(decisions.values()), 1), "studies"
    yield "S1-A06", max(rows["out_of_mask_after"] for rows in summary.values() if isinstance(rows, dict)), "studies"


def studies(files: Files) -> Rows:
    found = read_studies(files["studies"])
    points = found.points.astype(np.float64)
    yield "S1-A04", float(np.linalg.norm(mni_to_tal(tal_to_mni(points)) - points, axis=1).max()), "studies"
    yield "S1-A07", brain_grid("2mm").in_mask(points).mean(), "studies"
    scale = json.loads((files["studies"] / "scale.json").read_text())
    fractions = np.array([len(found.rows(split)) for split in SPLITS]) / len(found)
    yield "S1-A13", float(np.abs(fractions - scale["fractions"]).max()), "studies"
    split, group = found.table["split"].to_numpy(), near_duplicates(found)
    yield (
        "S1-A13b",
        sum(len({*split[group == label]}) > 1 for label in np.flatnonzero(np.bincount(group) > 1)),
        "studies",
    )


def maps(files: Files) -> Rows:
    values = np.load(files["maps"], mmap_mode="r")
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    yield "S1-A08", max(-low, high - 1), "maps"
    yield "S1-A08b", float((values.max(1) > 0).mean()), "maps"


def ladder(files: Files) -> Rows:
    table = pd.read_csv(files["ladder"])
    bits = table[table["split"] == "test"].set_index(["mode", "model"])["bits"]
    yield "S1-A64", bits["conditional"].drop("uniform").max() - bits["conditional", "uniform"], "ladder"
    yield "S1-A64b", bits["completion", "own"] - bits["completion", "global"], "ladder"


def training(stage: int) -> Callable[[Files], Rows]:
    """Rows of the history of a run: fall of the reconstruction term, and KL divergence at its end."""

    def rows(files: Files) -> Rows:
        history = pd.read_csv(files["history"])
        n = max(1, len(history) // 5)
        yield f"S{stage}-A19", 1 - history["recon"].tail(n).mean() / history["recon"].head(n).mean(), "history"
        yield f"S{stage}-A73", history["kl"].tail(n).mean(), "history"

    return rows


def evaluation(files: Files) -> Rows:
    found = json.loads(files["results"].read_text())
    yield "S2-A64", found["bits"]["conditional"]["difference"]["low"], "results"
    yield "S2-A64b", found["bits"]["completion"]["difference"]["low"], "results"
    yield "S2-A65", found["generation"]["model"]["recall"] - found["generation"]["mean_map"]["recall"], "results"
    if found["counterfactual"]:
        yield "S2-A31", np.mean([row["p"] <= 0.05 for row in found["counterfactual"]]), "results"
    yield "S2-A83", np.sum([row["leaks"] for row in found["leakage"]]), "results"
    found = found["external"]
    if isinstance(found["task"], list):
        accuracy = {row["features"]: row["balanced_accuracy"] for row in found["task"] if row["protocol"] == "cross"}
        yield "S2-A66", accuracy["model"] - accuracy["n_foci"], "results"
    if rank := found["button_press"].get("model", {}).get("motor_rank"):
        yield "S2-A67", rank, "results"
    if "summary" in found["pain"]:
        r = {row["model"]: row["r"] for row in found["pain"]["summary"]}
        yield "S2-A81", r["topic_decoded"] - r["mean_map"], "results"


def uncertainty(files: Files) -> Rows:
    found = json.loads(files["calibration"].read_text())
    rows = {(row["split"], row["region"], row["scaling"]): row for row in found["rows"]}
    plain = rows["test", "brain", "none"]
    yield "S3-A41", len(set(found["digests"])), "calibration"
    yield "S3-A43", plain["ece"], "calibration"
    yield "S3-A43b", rows["val", "brain", "none"]["ece"], "calibration"
    yield "S3-A43c", rows["test", "12 mm of foci", "coverage"]["ece"], "calibration"
    best = min(("none", "temperature", "coverage"), key=lambda name: rows["val", "brain", name]["ece"])
    yield "S3-A44", rows["test", "brain", best]["ece"], "calibration"
    yield "S3-A44b", rows["val", "brain", best]["ece"], "calibration"
    yield "S3-A45", plain["nll"] - plain["nll_constant"], "calibration"


def hierarchy(files: Files) -> Rows:
    found = json.loads(files["hierarchy"].read_text())
    yield "S3-A48", found["numbers"]["skip_gradient"], "hierarchy"
    passed = [row["passed"] for row in found["criteria"] if row["kind"] == "critical"]
    yield "S3-A49", float(np.mean(passed)), "hierarchy"


def exports(files: Files) -> Rows:
    """Files of the export that differ from their recorded digest, parity of ONNX, and codes of the maps."""
    schema = json.loads((files["tables"] / "schema.json").read_text())
    yield "S4-A56", sum(sha256(files["tables"] / name) != digest for name, digest in schema["sha256"].items()), "tables"
    licensed = [column["licence"] == schema["licence"] != "" for table in schema["tables"].values() for column in table]
    yield "S4-A88", np.mean(licensed), "tables"
    models = json.loads((files["onnx"] / "models.json").read_text())["models"]
    yield "S4-A57", max(row["max_error"] for row in models.values()), "onnx"
    yield "S4-A57b", len(models), "onnx"
    listed = json.loads((files["maps"] / "maps.json").read_text())["maps"]
    codes = [
        nib.Nifti1Image.from_filename(files["maps"] / row["file"]).header["sform_code"] == MNI152 for row in listed
    ]
    yield "S4-A59", np.mean(codes), "maps"


def one_step_prior(files: Files) -> Rows:
    """Lower end of the paired difference in bits per focus, and of recall of latents, one-step prior minus N(0, I)."""
    found = json.loads(files["prior"].read_text())
    yield "S4-A71", found["bits"]["difference"]["low"], "prior"
    yield "S4-A71b", found["latents"]["difference"]["coverage"]["low"], "prior"


def platform(files: Files) -> Rows:
    """Links of the Discovery Platform whose file is missing."""
    page = files["platform"]
    targets = re.findall(r'href="([^"#:]+)"', page.read_text(encoding="utf-8"))
    yield "S4-A63", sum(not (page.parent / target).is_file() for target in targets), "platform"


STAGES: dict[int, list[Callable[[Files], Rows]]] = {
    1: [coordinates, studies, maps, ladder, training(1)],
    2: [training(2), evaluation],
    3: [uncertainty, hierarchy],
    4: [exports, one_step_prior, platform],
}
