"""Staleness: which edits rerun which rules, and which edits rerun nothing."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import snakemake_start
import yaml

from neuromf.config.lesions import Pairs
from neuromf.config.study import Cohort
from neuromf.workflow import digests, listing
from neuromf.workflow.file_stamps import file_stamps
from neuromf.workflow.params import as_json

ROOT = Path(__file__).resolve().parents[2]
SNAKEFILE = ["--snakefile", str(ROOT / "Snakefile")]
USERS_OF_FLOW = {"train", "sample", "torus", "evaluate"}


def test_digest_covers_what_a_script_really_imports():
    code = (
        "import sys, workflow_scripts.train, json;"
        "print(json.dumps([m.__file__ for n, m in sys.modules.items()"
        " if n.split('.')[0] in ('neuromf', 'workflow_scripts') and m.__file__]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {Path(file).resolve() for file in json.loads(done.stdout)}
    assert imported <= set(digests.code_files("workflow_scripts.train"))


def test_training_depends_neither_on_figures_nor_on_metrics_of_samples():
    names = {str(path.relative_to(ROOT)) for path in digests.code_files("workflow_scripts.train")}
    assert "neuromf/meanflow/flow.py" in names and "neuromf/meanflow/module.py" in names
    assert not {
        name for name in names if "figures" in name or "frechet" in name or "simulation" in name or "torus" in name
    }


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """A copy of the library whose files a test may edit, with the digest functions pointed at it."""
    for package in digests.PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    monkeypatch.setattr(digests, "ROOT", tmp_path)

    def edit(file, old, new):
        path = tmp_path / file
        text = path.read_text()
        assert text.count(old) >= 1, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))
        digests._parsed.cache_clear()

    return edit


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("neuromf/meanflow/flow.py", "    v = eps - x\n", "    v = eps - x  # velocity\n", set()),
        ("neuromf/meanflow/flow.py", "    v = eps - x\n", "\n\n    v = (eps -  x)\n", set()),
        (
            "neuromf/meanflow/flow.py",
            '"""Mean squared error per element',
            '"""Average squared error per element',
            set(),
        ),
        ("neuromf/meanflow/flow.py", "    v = eps - x\n", "    v = x - eps\n", USERS_OF_FLOW),
        ("neuromf/training/module.py", "(0.9, 0.95)", "(0.9, 0.99)", {"train", "autoencoder"}),
        ("neuromf/simulation/brains.py", "WHITE = 0.7", "WHITE = 0.8", {"simulate_participants"}),
        ("neuromf/figures/brains.py", "BAR_MM = 50", "BAR_MM = 60", {"fig_3"}),
    ],
)
def test_an_edit_changes_the_digest_of_those_who_use_it_and_no_other(edited, file, old, new, stale):
    scripts = (
        "simulate_participants cohort prepare autoencoder encode latent_statistics train sample evaluate torus fig_3"
    )
    scripts = scripts.split()
    before = {name: digests.code_digest(f"workflow_scripts.{name}") for name in scripts}
    edited(file, old, new)
    after = {name: digests.code_digest(f"workflow_scripts.{name}") for name in scripts}
    assert {name for name in scripts if before[name] != after[name]} == stale


def test_values_are_one_string_independent_of_their_order():
    assert as_json(lr=1, wd=2) == as_json(wd=2, lr=1) != as_json(lr=2, wd=1)
    assert as_json(**json.loads('{"a": [1, 2], "b": {"d": 1, "c": 2}}')) == as_json(b={"c": 2, "d": 1}, a=[1, 2])


def test_a_missing_module_and_a_relative_import_are_refused(edited, tmp_path):
    with pytest.raises(ValueError, match="no module neuromf.nothing under"):
        digests.code_files("neuromf.nothing")
    edited("neuromf/meanflow/flow.py", "import torch\n", "import torch\nfrom . import nets\n")
    with pytest.raises(ValueError, match="imports relatively; write the module's full name"):
        digests.code_files("neuromf.meanflow.flow")


# --- scans -------------------------------------------------------------------------------------------


def section(**values):
    embedded = {"n_participants": 8, "seed": 0}
    more = {"split": {"train": 1, "val": 0, "test": 0}, "scans_per_shard": 4, "embedded": embedded}
    return Cohort.model_validate({"source": next(iter(values)), **more, **values})


@pytest.fixture
def scans(tmp_path):
    """A folder of three scans with a table of participants."""
    for name in "abc":
        (tmp_path / f"{name}.nii.gz").write_bytes(b"scan")
    table = "participant_id\tage\tborn\na\t20\t1990\nb\t30\t1980\nc\t40\t1970\nd\t50\t1960\n"
    (tmp_path / "participants.tsv").write_text(table)
    return tmp_path


def test_scans_that_can_be_used_are_counted_and_shared_out(scans):
    folder = {"root": str(scans), "participants": "participants.tsv"}
    assert listing.list_scans(section(folder=folder)).n == 3
    (scans / "d.nii.gz").symlink_to("nowhere")
    assert listing.list_scans(section(folder=folder)).n == 3
    assert [listing.n_shards(n, 2) for n in (0, 1, 2, 3, 60_000)] == [1, 1, 1, 2, 30_000]


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("participants.tsv", "a\t20", "a\t21", True),
        ("participants.tsv", "1990", "1991", False),
        ("d.nii.gz", "", "scan", True),
        ("notes.txt", "", "scan", False),
    ],
)
def test_the_digest_of_a_folder_changes_with_what_is_read_of_it(scans, file, old, new, stale):
    cohort = section(folder={"root": str(scans), "participants": "participants.tsv"})
    before = listing.list_scans(cohort)
    text = (scans / file).read_text() if (scans / file).exists() else ""
    (scans / file).write_text(text.replace(old, new, 1))
    assert (listing.list_scans(cohort).digest != before.digest) is stale


def test_the_digest_of_a_table_changes_with_its_rows_and_asks_nothing_of_its_files(scans, monkeypatch):
    columns = {"file": "{participant_id}.nii.gz", "participant": "participant_id", "age": "age"}
    cohort = section(table={"root": str(scans), "scans": "participants.tsv", "columns": columns})
    looked_for = []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: looked_for.append(path) or True)
        before = listing.list_scans(cohort)
    assert looked_for == []
    assert before.n == 4  # d has no file, which the making of the cohort will find
    table = scans / "participants.tsv"
    table.write_text(table.read_text().replace("1990", "1991"))
    assert listing.list_scans(cohort) == before
    table.write_text(table.read_text().replace("a\t20", "a\t21"))
    assert listing.list_scans(cohort).digest != before.digest


@pytest.fixture
def sources(tmp_path):
    """Four scans with masks and a table, read by each source."""
    names = [f"sub-{k}" for k in range(4)]
    for name in names:
        for kind in ("T1w", "mask"):
            path = tmp_path / name / "anat" / f"{name}_{kind}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"image")
    lines = [f"{name}/anat/{name}_T1w.nii.gz\t{name}/anat/{name}_mask.nii.gz\t{name}" for name in names]
    (tmp_path / "scans.tsv").write_text("\n".join(["file\tmask\tid", *lines]))
    regex, masks = r"(?P<scan>(?P<participant>sub-\d+)).*", "{scan}/anat/{scan}_mask.nii.gz"
    columns = {"file": "file", "mask": "mask", "participant": "id"}
    return {
        "folder": {"root": str(tmp_path), "pattern": "**/*_T1w.nii.gz", "scan_regex": regex, "masks": masks},
        "bids": {"root": str(tmp_path), "masks": "{folder}/{entities}_mask.nii.gz"},
        "table": {"root": str(tmp_path), "scans": "scans.tsv", "columns": columns},
    }


def shard_digests(cohort):
    plan = listing.list_scans(cohort)
    return [listing.shard_digest(cohort, plan, shard, 2) for shard in range(2)], plan.digest


def replace_keeping_size(path):
    """Other content of the same size, a second later."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


@pytest.mark.parametrize("source", ["folder", "bids", "table"])
@pytest.mark.parametrize("kind", ["T1w", "mask"])
@pytest.mark.parametrize("replace", [replace_keeping_size, lambda path: path.write_bytes(b"another image")])
def test_a_replaced_file_makes_its_shard_stale_and_no_other(sources, source, kind, replace):
    """Scan 1 is in shard 1 of 2; the list of scans is the same, so the cohort is not made again."""
    cohort = section(**{source: sources[source]})
    (first, second), plan = shard_digests(cohort)
    assert shard_digests(cohort) == ([first, second], plan)
    replace(Path(sources[source]["root"]) / f"sub-1/anat/sub-1_{kind}.nii.gz")
    (same, other), plan_after = shard_digests(cohort)
    assert same == first and other != second and plan_after == plan


@pytest.mark.parametrize("source", ["folder", "bids", "table"])
def test_a_mask_that_appears_makes_the_cohort_stale(sources, source):
    cohort = section(**{source: sources[source]})
    mask = Path(sources[source]["root"]) / "sub-1/anat/sub-1_mask.nii.gz"
    mask.unlink()
    before = listing.list_scans(cohort).digest
    mask.write_bytes(b"image")
    assert listing.list_scans(cohort).digest != before


def test_a_replaced_header_of_a_pair_of_files_is_noticed(tmp_path):
    for end in ("hdr", "img"):
        (tmp_path / f"a.{end}").write_bytes(b"half")
    before = file_stamps([[str(tmp_path / "a.img"), ""]])
    replace_keeping_size(tmp_path / "a.hdr")
    assert file_stamps([[str(tmp_path / "a.img"), ""]]) != before
    assert file_stamps([[str(tmp_path / "no.nii")], []]) == ["missing", ""]


def test_a_changed_unit_in_participants_json_makes_the_cohort_stale(scans):
    cohort = section(folder={"root": str(scans), "participants": "participants.tsv"})
    before = listing.list_scans(cohort).digest
    (scans / "participants.json").write_text('{"age": {"Units": "months"}}')
    assert listing.list_scans(cohort).digest != before


@pytest.mark.parametrize("kind", ["FLAIR", "lesion", "brain"])
def test_a_replaced_file_makes_the_pairs_stale(tmp_path, kind):
    for end in ("FLAIR", "lesion", "brain"):
        (tmp_path / "in/p").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/p/p_{end}.nii.gz").write_bytes(b"image")
    pairs = SimpleNamespace(source="pairs", pairs=Pairs(root=str(tmp_path / "in"), brains="{scan}/{scan}_brain.nii.gz"))
    before = listing.pairs_digest(pairs)
    assert listing.pairs_digest(pairs) == before
    replace_keeping_size(tmp_path / f"in/p/p_{kind}.nii.gz")
    assert listing.pairs_digest(pairs) != before


def test_jobs_get_the_number_of_scans_and_look_at_no_file(sources, monkeypatch):
    cohort = section(folder=sources["folder"])
    monkeypatch.delenv(listing.N_SCANS, raising=False)
    assert listing.plan_scans(cohort, main=True).n == 4

    def fail(*_, **__):
        raise AssertionError("a job looked at the scans")

    monkeypatch.setattr(listing, "list_scans", fail)
    plan = listing.plan_scans(cohort, main=False)
    assert plan.n == 4 and listing.shard_digest(cohort, plan, 0, 2) == ""
    with pytest.raises(AssertionError):
        listing.plan_scans(cohort, main=True)


def test_a_root_inside_the_results_is_refused(sources, monkeypatch):
    root = Path(sources["folder"]["root"])
    (root / "results/volumes").mkdir(parents=True)
    (root / "results/volumes/a.nii.gz").write_bytes(b"scan")
    monkeypatch.chdir(root)
    with pytest.raises(
        SystemExit, match="cohort.folder.root is .*results, inside the results of this study; set it to"
    ):
        listing.list_scans(section(folder={"root": str(root / "results")}))
    pairs = SimpleNamespace(source="pairs", pairs=Pairs(root=str(root / "results/volumes")))
    with pytest.raises(SystemExit, match="lesions.pairs.root is .*volumes, inside the results of this study"):
        listing.pairs_digest(pairs)


def test_replaced_scans_of_ixi_are_noticed_after_the_download(tmp_path):
    cohort = section(ixi={"folder": str(tmp_path / "ixi"), "expected": 2})
    plan = listing.list_scans(cohort)
    assert listing.shard_digest(cohort, plan, 1, 2) == ""
    (tmp_path / "ixi/T1").mkdir(parents=True)
    for k in range(2):
        (tmp_path / f"ixi/T1/IXI00{k}-HH-1-T1.nii.gz").write_bytes(b"scan")
    before = [listing.shard_digest(cohort, plan, shard, 2) for shard in range(2)]
    replace_keeping_size(tmp_path / "ixi/T1/IXI001-HH-1-T1.nii.gz")
    after = [listing.shard_digest(cohort, plan, shard, 2) for shard in range(2)]
    assert before[0] == after[0] != "" and before[1] != after[1]


def test_scans_of_ixi_are_planned_before_they_are_fetched(tmp_path):
    cohort = section(ixi={"folder": str(tmp_path / "ixi"), "expected": 5})
    before = listing.list_scans(cohort)
    assert before.n == 5
    names = ["IXI012-HH-1211-T1", "IXI013-Guys-1-T1", "IXI014-IOP-2-T1", "IXI015-XX-3-T1"]
    (tmp_path / "ixi" / "T1").mkdir(parents=True)
    for name in names:
        (tmp_path / "ixi" / "T1" / f"{name}.nii.gz").write_bytes(b"scan")
    (tmp_path / "ixi" / "participants.tsv").write_text("participant_id\tsex\tage\nIXI012\tF\t30\nIXI013\tM\t40\n")
    assert listing.list_scans(cohort) == before  # fetching must not make the cohort stale again
    values = listing.source_values(cohort)
    assert values.pop("source") == "folder"
    rows = listing.read_folder(**values)
    assert [row["scan"] for row in rows] == ["IXI012-HH-1211", "IXI013-Guys-1", "IXI014-IOP-2", "IXI015-XX-3-T1"]
    assert [(row["participant"], row["site"], row["sex"]) for row in rows][:2] == [
        ("IXI012", "HH", "F"),
        ("IXI013", "Guys", "M"),
    ]
    assert [row["problem"].split(":")[0] for row in rows] == ["", "", "", "name does not match"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folder": {"root": "/no/such"}}, "cohort.folder.root is /no/such, which is no folder; set it to"),
        ({"bids": {"root": "."}}, "cohort.bids: no scan in "),
        (
            {"table": {"root": ".", "scans": "no.tsv", "columns": {"file": "f", "participant": "p"}}},
            "cohort.table: table of scans .*no.tsv does not exist",
        ),
    ],
)
def test_an_unreadable_source_stops_planning_with_the_reason(values, message):
    with pytest.raises(SystemExit, match=message):
        listing.list_scans(section(**values))


# --- Snakemake itself --------------------------------------------------------------------------------


def snakemake(*arguments, cwd, check=True, study=None):
    tiny = ["--configfile", str(ROOT / "tests/config/tiny.yaml"), *([str(study)] if study else [])]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # rules call python by name
    return snakemake_start.snakemake(
        [*arguments, "--cores", "2", *tiny], cwd=cwd, check=check, env={**os.environ, "PATH": path}
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository whose torus branch was run to its figure, which is quick and trains a net."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("neuromf", "workflow_scripts", "rules", "profiles", "envs", "studies", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, copy / name)
    snakemake("results/figures/fig_2.pdf", cwd=copy)
    return copy


def stale(checkout):
    """Rules that would run again for figure 2, from the summary of Snakemake."""
    table = snakemake("results/figures/fig_2.pdf", "--summary", cwd=checkout).stdout
    rows = csv.DictReader(io.StringIO(table), delimiter="\t")
    return {row["output_file"].split("/")[1] for row in rows if row["plan"] == "update pending"}


def test_nothing_to_do_after_a_run_nor_after_a_comment_but_after_a_formula(checkout):
    flow, config = checkout / "neuromf" / "meanflow" / "flow.py", checkout / "config.yaml"
    text = flow.read_text()
    flow.write_text(text + "\n# a comment\n")
    config.write_text(config.read_text().replace("study: embedded\n", "study: embedded  # a comment\n"))
    for path in checkout.rglob("*.py"):
        path.touch()  # as a fresh checkout does
    assert stale(checkout) == set()
    flow.write_text(text.replace("v = eps - x", "v = x - eps"))
    assert stale(checkout) == {"toy", "figures"}
    flow.write_text(text)


def test_a_changed_value_reruns_and_swapped_values_are_noticed(checkout):
    config = checkout / "config.yaml"
    text = config.read_text()
    more = "n_steps: 2800\n    fraction_corner: 0.25\n    fraction_r_equals_t: 0.1"
    config.write_text(text.replace("n_steps: 2800", more))
    assert stale(checkout) == {"toy", "figures"}
    config.write_text(text)
    assert stale(checkout) == set()


def test_a_wrong_key_is_refused_before_any_job(tmp_path):
    done = snakemake("-n", "--config", "meanflow={'train': {'step': 3}}", *SNAKEFILE, cwd=tmp_path, check=False)
    assert done.returncode != 0
    message = "meanflow.train.step: unknown key; allowed here: accumulate, averages, batch, checkpoint_activations"
    assert message in done.stderr + done.stdout


@pytest.mark.slow
def test_a_scan_copied_again_makes_its_shard_stale_and_nothing_else_does(tmp_path):
    """Snakemake itself: a quarantined scan is replaced under its name by one that can be used."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(9):
        data = rng.uniform(50, 100, (20, 20, 20)).astype(np.float32) * (k != 8)
        nib.save(nib.Nifti1Image(data, np.diag([5.0, 5, 5, 1])), tmp_path / f"in/s{k}.nii.gz")
    folder = {"source": "folder", "folder": {"root": str(tmp_path / "in")}, "scans_per_shard": 8}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"cohort": folder}))

    def run(*more):
        arguments = ["results/cohort/qc.tsv", *SNAKEFILE, *more]
        return snakemake(*arguments, cwd=tmp_path, study=tmp_path / "study.yaml").stdout

    run()
    qc = (tmp_path / "results/cohort/qc.tsv").read_text()
    assert "constant: every voxel of s8.nii.gz is 0" in qc and "Nothing to be done" in run("-n")
    data = rng.uniform(50, 100, (20, 20, 20)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([5.0, 5, 5, 1])), tmp_path / "in/s8.nii.gz")
    counted = run("-n", "--quiet", "rules")
    assert re.search(r"^prepare +1$", counted, re.M) and not re.search(r"^cohort ", counted, re.M)
    run()
    assert "constant" not in (tmp_path / "results/cohort/qc.tsv").read_text()
    assert "Nothing to be done" in run("-n")


def test_a_study_from_a_table_is_planned_without_its_files(tmp_path):
    rows = [f"D{k % 2}\tsub_{k}\tses_1\tt1.nii.gz" for k in range(21)]
    (tmp_path / "mapping.tsv").write_text("\n".join(["dataset\tparticipant_id\tsession_id\tfilename", *rows]))
    participants = [f"D{k % 2}\tsub_{k}\tses_1\tF\t30\t{'Control' if k else 'Patient'}" for k in range(21)]
    (tmp_path / "participants.tsv").write_text(
        "\n".join(["dataset\tparticipant_id\tsession_id\tsex\tage\tgroup", *participants])
    )
    table = yaml.safe_load((ROOT / "studies/fomo.yaml").read_text())["cohort"]["table"]
    table |= {"root": str(tmp_path), "where": {"filename": "t1.nii.gz", "group": "Control"}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"cohort": {"source": "table", "table": table}}))
    (tmp_path / "cwd").mkdir()
    plan = ["-n", "--quiet", "rules", "--snakefile", str(ROOT / "Snakefile"), "all"]
    done = snakemake(*plan, cwd=tmp_path / "cwd", study=tmp_path / "study.yaml")
    jobs = dict(line.split() for line in done.stdout.splitlines() if re.fullmatch(r"\w+ +\d+", line))
    assert jobs["prepare"] == jobs["encode"] == "3" and jobs["cohort"] == "1"  # 20 scans, 8 in a shard
    assert "simulate_participants" not in jobs


# --- a fan-out of arms -------------------------------------------------------------------------------

TWO = {"rectified": {"arms": {"rectified": {"train": {"steps": 60}}}}, "lp": {"arms": {"1.25": {"flow": {"p": 1.25}}}}}
AGAIN = {"sample": 2, "evaluate": 1, "ablation": 1, "compare_arms": 1, "fig_5": 1, "table_arms": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which every file of two ablations stands as if it had been made."""
    folder = tmp_path_factory.mktemp("finished")
    asked(folder, TWO)
    table = planned("ablations", "--summary", folder=folder)
    for row in csv.DictReader(io.StringIO(table[table.index("output_file") :]), delimiter="\t"):
        made = folder / row["output_file"]
        (made.parent if made.suffix else made).mkdir(parents=True, exist_ok=True)
        if made.suffix:
            made.touch()
    planned("ablations", "--touch", folder=folder)
    return folder


def asked(folder, ablations, **more):
    """Write the overlay of a study that asks for these ablations."""
    meanflow = {"ablations": {"arms": ablations, "run": ["rectified", "lp"]}}
    text = yaml.safe_dump({"meanflow": meanflow, **more})
    (folder / "study.yaml").write_text(text)


def planned(*arguments, folder):
    return snakemake(*arguments, "--snakefile", str(ROOT / "Snakefile"), cwd=folder, study=folder / "study.yaml").stdout


def jobs(folder, ablations, **more):
    """How often each rule would run for these ablations, but for the target itself."""
    asked(folder, ablations, **more)
    text = planned("ablations", "-n", folder=folder)
    if "Nothing to be done" in text:
        return {}
    lines = text[text.index("Job stats") :].split("\n\n")[0].splitlines()[3:]
    return {rule: int(n) for rule, n in map(str.split, lines) if rule not in ("ablations", "total")}


def arm(p, name="1.25"):
    return TWO | {"lp": {"arms": {name: {"flow": {"p": p}}}}}


def test_only_new_and_edited_arms_are_trained(finished):
    assert jobs(finished, TWO) == {}
    both = {"1.25": {"flow": {"p": 1.25}}, "1.75": {"flow": {"p": 1.75}}}
    assert jobs(finished, TWO | {"lp": {"arms": both}}) == {"train": 1, **AGAIN}
    assert jobs(finished, arm(1.3)) == {"train": 1, **AGAIN}
    swapped = {"1.25": {"flow": {"p": 1.5}}, "1.5": {"flow": {"p": 1.25}}}
    assert jobs(finished, TWO | {"lp": {"arms": swapped}})["train"] == 2
    same = {"lp": {"arms": {"1.25": {"flow": {"p": 1.25}}, "again": {"flow": {"p": 1.25}}}}}
    assert "train" not in jobs(finished, TWO | same)


def test_an_interrupted_fan_out_resumes_with_missing_runs(finished):
    results = finished / "results"
    for path in [*(results / "runs" / "lp-1.25-s0").iterdir(), results / "ablations" / "lp.csv"]:
        path.unlink()  # as of a job that did not end, and of one that never began
    assert jobs(finished, TWO) == {"train": 1, **AGAIN}


def test_another_bound_or_study_name_reruns_gates_only(finished):
    """A study of pairs on top of a trained one has another name: only its gates are evaluated again."""
    assert jobs(finished, TWO, study="another").keys() == {"gate"}
    stricter = {"bounds": {"P0-T5": 20.0}}
    assert jobs(finished, TWO, gates=stricter).keys() == {"gate"}


BEHIND_A_GATE = """
import sys
from neuromf.workflow.stale import count_stale_jobs
rule gate:
    output: "gate.txt"
    params: bound=config["bound"]
    shell: "echo {params.bound} > {output}"
rule train:
    default_target: True
    input: ancient("gate.txt")
    output: "model.txt"
    params: lr=config["lr"]
    shell: "echo {params.lr} > {output}"
onsuccess:
    print("stale jobs:", count_stale_jobs(log, sys.argv[1:]))
"""


def test_jobs_that_stay_stale_behind_a_gate_are_counted(tmp_path):
    """Should Snakemake come to see it in the first run, gates need no such word any more."""
    (tmp_path / "Snakefile").write_text(BEHIND_A_GATE)

    def run(*more, **values):
        settings = [f"{name}={value}" for name, value in values.items()]
        arguments, env = ["--cores", "1", *more, "--config", *settings], os.environ | {"PYTHONPATH": str(ROOT)}
        done = snakemake_start.snakemake(arguments, cwd=tmp_path, env=env, check=True)
        found = re.findall(r"stale jobs: (\d+)", done.stdout + done.stderr)
        return (tmp_path / "model.txt").read_text().strip(), found

    assert run(bound=1, lr=1) == ("1", ["0"])
    assert run(bound=2, lr=2) == ("1", ["1"])
    assert run(bound=2, lr=2) == ("2", ["0"])
    assert run(bound=3, lr=2) == ("2", ["0"])
    assert run("--forceall", bound=4, lr=4) == ("4", ["0"])
