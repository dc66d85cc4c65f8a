"""Fixtures that several test files share, and the markers of tests that carry the id of a criterion."""

import json
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

import workflow_scripts  # noqa: F401  # before MONAI, as in the jobs of the workflow

ROOT = Path(__file__).resolve().parents[1]
CRITERION = re.compile(r"test_(?:(P(\d)_T\d+[a-z]?)|([AG]\d\d))_")
KINDS = dict(re.findall(r"^\| (P\d-T\d+[a-z]?) \| \w+, ([ci]) \|", (ROOT / "docs/criteria.md").read_text(), re.M))
for system in ("growth", "atlas"):
    rows = (ROOT / f"docs/{system}_criteria.md").read_text()
    KINDS |= dict(re.findall(r"^\| ([AG]\d\d) \| ([ci]) \|", rows, re.M))


def pytest_collection_modifyitems(items):
    """Mark `test_P3_T6_...`, `test_G05_...` and `test_A05_...` with critical or informational.

    The tables of criteria say which. Tests of a phase are also marked with phase0 to phase8.
    """
    for item in items:
        if found := CRITERION.match(item.name):
            if found[2]:
                item.add_marker(f"phase{found[2]}")
            name = (found[1] or found[3]).replace("_", "-")
            item.add_marker("critical" if KINDS[name] == "c" else "informational")


@pytest.fixture
def base_config():
    """The config of the default study as a dict."""
    return yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def device():
    """The device of tests: a GPU if there is one."""
    from neuromf.core.hardware import default_device

    return default_device()


@pytest.fixture
def results_root():
    """The results of a finished study: NEUROMF_STUDY, or the study of `make tiny`."""
    folder = Path(os.environ.get("NEUROMF_STUDY", ROOT / "work/tiny")) / "results"
    if not (folder / "report.html").exists():
        pytest.skip("no finished study: run make tiny, or set NEUROMF_STUDY")
    return folder


SHAPE = (10, 20, 30)
RAS = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), (-11, -17, 23))


@pytest.fixture
def folder(tmp_path):
    def make(*names, **texts):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"scan")
        for name, text in texts.items():
            (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
        return tmp_path

    return make


@pytest.fixture
def noise():
    return np.random.default_rng(0).uniform(50, 100, SHAPE).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    def make(data, to_world=RAS, name="scan.nii.gz"):
        nib.save(nib.Nifti1Image(np.asarray(data, getattr(data, "dtype", np.float32)), to_world), tmp_path / name)
        return tmp_path / name

    return make


# --- results of a study, as small as they can be ------------------------------------------------------

RUN = "meanflow"
AUDIT = {"memorised_fraction": 0, "nearest_train_ratio": 0.91, "nearest_train_ratio_p": 0.11, "membership_auc": 0.46,
         "membership_p": 0.61, "privacy_alarm": 0}  # fmt: skip
MEASURED = {  # by set and NFE: metric, features, n, value, low, high
    "samples,1": [
        ("frechet", "encoder-512", 8, 670.2, 640, 700),
        ("kid", "encoder-512", 8, 3.8, 2.5, 5.2),
        ("precision", "encoder-512", 8, 0.75, "", ""),
        ("recall", "encoder-512", 8, 0.5, "", ""),
        ("pair_ms_ssim", "", 4, 0.939, "", ""),
        ("tissue_contrast", "", 4, 3.01, 2.9, 3.1),
        ("ventricle_ml", "", 4, 11.1, 9.5, 12.5),
        ("betti_0", "", 8, 1.25, 1, 1.5),
        ("high_frequency_ratio", "", 8, 0.00649, 0.0058, 0.0071),
        ("latent_std_error", "", 8, 0.155, "", ""),
        *[(name, "image-pool4", 8, value, "", "") for name, value in AUDIT.items()],
    ],
    "samples,4": [("frechet", "encoder-512", 8, 560.4, 530, 590), ("kid", "encoder-512", 8, 3.5, 2.1, 5.2)],
    "prior,": [("frechet", "encoder-512", 8, 790.6, 760, 830), ("kid", "encoder-512", 8, 4.2, 2.9, 5.8)],
    "test,": [("frechet", "encoder-512", 4, 494.4, 482, 520), ("pair_ms_ssim", "", 4, 0.786, "", "")],
}  # fmt: skip
FILES = {
    "cohort/qc.tsv": "scan\tsplit\tstatus\na\ttrain\taccepted\nb\ttrain\taccepted\nc\ttest\taccepted\nd\ttest\taside\n",
    "cohort/participants.tsv": "scan\tsplit\tage\tsex\na\ttrain\t30\tF\nb\ttrain\t50\tM\nc\ttest\t70\tF\n",
    "toy/summary.csv": "dim,prediction,nfe,mean_distance\n16,x,1,0.0731\n16,x,5,0.0412\n",
    f"bench/generation-{RUN}.csv": "run,part,nfe,batch,n,seconds_per_volume,low,high,device,precision\n"
    f"{RUN},network,1,1,9,0.0512,0.05,0.06,a CPU,float32\n{RUN},decoder,,1,9,0.0833,0.08,0.09,a CPU,float32\n",
}
TRAINED = {
    "flow": {"prediction": "x", "p": 2.0, "tangent": "predicted", "target": "teacher",
             "prior": {"axes": [4], "block": [1], "shrinkage": [0.1]},
             "flow_matching_steps": 40,
             "adaptive_c": 0.01, "adaptive_power": 1.0,
             "times": {"t_logit_normal": [-0.6, 1.6], "r_logit_normal": [-4.0, 1.6],
                       "fraction_r_equals_t": 0.5, "fraction_corner": 0.1}},
    "net": {"widths": [16, 32], "patch": 2, "conditioning": "t-h"},
    "train": {"steps": 120, "batch": 4, "accumulate": 1, "seed": 7, "lr": 0.002, "warmup": 50, "clip": 1.0,
              "ema_images": [1600]},
}  # fmt: skip
CARD = {"versions": {"neuromf": "0.1.0", "torch": "2.13.0", "monai": "1.6.1"}, "parameters": 543712, "seconds": 12.6,
        "peak_mb": 632.9, "device": "cpu, 1 threads", "data": {"n_latents": 24}}  # fmt: skip


@pytest.fixture
def small_study(tmp_path):
    """A folder of results: text files alone, with every number of its own."""
    lines = [
        f"{RUN if name != 'test,' else ''},{name},{','.join(map(str, row))}"
        for name in MEASURED
        for row in MEASURED[name]
    ]
    table = "run,set,nfe,metric,features,n,value,low,high\n" + "\n".join(lines) + "\n"
    own = "\n".join(line for line in table.splitlines() if not line.startswith(","))
    real = "\n".join([table.splitlines()[0], *(line for line in table.splitlines() if line.startswith(","))])
    failed = {
        "id": "P4-T6",
        "what": "EMA over online",
        "measured": 1.012,
        "bound": "<= 1",
        "kind": "critical",
        "passed": False,
    }
    card = {"config": TRAINED, **CARD}
    gates = {phase: {"phase": phase, "status": "OPEN", "blocked_by": [], "rows": []} for phase in range(6)}
    gates[4] |= {"status": "BLOCKED", "blocked_by": ["P4-T6"], "rows": [failed]}
    files = {
        **FILES,
        "metrics/metrics.csv": table,
        "metrics/reference.csv": real,
        f"runs/{RUN}/metrics.csv": own,
        f"runs/{RUN}/card.json": json.dumps(card),
        "vae/validation.json": json.dumps({"n": 3, "ssim": 0.963, "psnr": 29.7}),
        **{f"gates/phase_{phase}.json": json.dumps(gate) for phase, gate in gates.items()},
    }
    for name, text in files.items():
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).write_text(text, encoding="utf-8")
    return tmp_path / "results"
