"""A small artificial study on disk, with the files that the rules write, for tests of the report page."""

import json

import numpy as np
import pandas as pd
from PIL import Image

from neuromf.report.page import build, pictures, preview
from neuromf.report.results import Results
from neuromf.report.tables import style

RUN, SECRET = "meanflow", "PERSON0007"
SETTINGS = {
    "study": "small & <b>bold</b>",
    "source": "folder",
    "figures": {"fig_1": "", "fig_2": "", "fig_5": "the ablation lp is not active", f"dashboard-{RUN}": ""},
    "tables": {"table_1": "", "table_4": "this study has no lesions"},
    "phases": {str(phase): "" if phase < 6 else "not in this study" for phase in range(9)},
    "runs": {RUN: ["rectified: meanflow, seed 0"], "rectified-rectified-s0": ["rectified: rectified, seed 0"]},
    "config": {"seed": 0, "note": "</script><script>alert(1)</script>"},
    "digests": {"train": "0123456789abcdef"},
}


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def put_gates(root):
    row = {"id": "P4-T6", "what": "EMA over online", "measured": 1.01, "bound": "<= 1", "kind": "critical"}
    good = {"id": "P4-T1", "what": "steps", "measured": 550.0, "bound": ">= 100", "kind": "critical", "passed": True}
    put(root / "gates/phase_0.json", {"phase": 0, "status": "OPEN", "blocked_by": [], "rows": [good]})
    rows = [good, {**row, "passed": False, "next": "train longer"}]
    put(root / "gates/phase_4.json", {"phase": 4, "status": "BLOCKED", "blocked_by": ["P4-T6"], "rows": rows})


def put_numbers(root):
    lines = [
        ("samples", 1, "frechet", "encoder-512", 40, 757.123456, 700.5, 801.25),
        ("samples", 50, "frechet", "encoder-512", 40, 603.5, 580.0, 650.0),
        ("prior", None, "frechet", "encoder-512", 40, 694.0, 650.0, 720.0),
        ("test", None, "frechet", "encoder-512", 48, 195.0, 180.0, 210.0),
    ]
    columns = ["set", "nfe", "metric", "features", "n", "value", "low", "high"]
    table = pd.DataFrame(lines, columns=columns).astype({"nfe": "Int64"}).assign(run=[RUN, RUN, RUN, ""])
    put(root / "metrics/metrics.csv", table.to_csv(index=False))
    trained = {"train": {"seed": 3, "steps": 550}}
    card = {"config": trained, "device": "cpu, 2 threads", "seconds": 389.0, "parameters": 4500000, "peak_mb": 900.0}
    put(root / f"runs/{RUN}/card.json", {**card, "versions": {"torch": "2.13.0"}, "data": {"n_latents": 544}})
    put(root / "vae/validation.json", {"ssim": 0.96312, "psnr": 29.71, "n": 8})


def put_cohort(root):
    scans = [("train", "accepted", "")] * 7 + [("test", "accepted", "")] * 2 + [("", "excluded", f"blank: {SECRET}")]
    qc = pd.DataFrame(scans, columns=["split", "status", "reason"])
    qc["scan"] = [SECRET.replace("7", str(k)) for k in range(10)]
    put(root / "cohort/qc.tsv", qc.to_csv(index=False, sep="\t"))
    for name, seconds in (("train/meanflow", 389.5), ("train/other", 10.5), ("qc", 1.0)):
        put(root / f"benchmarks/{name}.tsv", f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t{seconds + 1}\n")


def put_artefacts(root):
    record = {"study": SETTINGS["study"], "run": RUN, "seed": 5, "spacing_mm": 2.5, "values": {}, "file": SECRET}
    for name in ("fig_1", f"dashboard-{RUN}"):
        put(root / f"figures/{name}.json", record)
        Image.new("RGB", (40, 30), "white").save(root / f"figures/{name}.png")
    columns = [style.Column("name", "", kind="text"), style.Column("d", "distance", "of features", factor=1000)]
    rows = [("ours", "b", 0.757123, 0.7, 0.8), ("ours", "a", 0.0123, np.nan, np.nan), ("real", "c", np.nan, 0, 0)]
    table = pd.DataFrame(rows, columns=["group", "name", "d", "d_low", "d_high"])
    style.save(table, columns, ["A note."], root / "tables/table_1", {"study": "small", "seed": 5})


def put_preview(folder, seed=0):
    rng, crop = np.random.default_rng(seed), (slice(1, 15), slice(0, 16), slice(2, 14))
    lines = []
    for name, nfe in [("samples", 1), ("samples", 50), ("test", None), ("reconstruction", None)]:
        volume = np.zeros((16, 16, 16))
        volume[3:12, 3:12, 3:12] = rng.uniform(0.4, 1, (9, 9, 9))
        file = f"{name}-T1-0" + (f"-{nfe}" if nfe else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{file}.nii.gz").write_bytes(preview.nifti(volume, crop, 2.5))
        (folder / f"{file}.webp").write_bytes(pictures.grey(preview.planes(volume, crop, 2.5)))
        lines.append({"set": name, "image": "T1", "case": 0, "name": file, **({"nfe": nfe} if nfe else {})})
    put(
        folder / "look.json",
        {"run": RUN, "spacing_mm": 2.5, "volumes": lines, "scans": {"accepted": 9, "shown": 0, "outliers": 0}},
    )


def put_reader(root, volumes=None, n_pairs=12):
    """24 volumes that differ in brightness, in an order that is not that of their brightness."""
    truth = np.random.default_rng(1).permutation([True] * n_pairs + [False] * n_pairs).tolist()
    tiles = [np.full((30, 24), 40 + 8 * k, np.uint8) for k in range(2 * n_pairs)]
    volumes = volumes or [[pictures.webp_uri(pictures.grey(tile))] * 3 for tile in tiles]
    numbers = {"n_pairs": n_pairs, "requested": 12, "n_samples": 40, "n_test": 48}
    put(root / "report/reader.json", {**numbers, "volumes": volumes, "sizes": [[24, 30]] * 3, "generated": truth})


def put_study(root):
    for fill in (put_gates, put_numbers, put_cohort, put_artefacts):
        fill(root)
    put_preview(root / "report/look")
    put_reader(root)
    return root


def render(root, viewer="viewer.js"):
    folder = root / "report"
    return build.render_page(Results(root, RUN), folder / "look", folder / viewer, folder / "licences.txt", **SETTINGS)
