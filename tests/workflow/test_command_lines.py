"""Every job of the workflow calls its script with exactly the options that the script declares."""

import importlib
import os
import re
import shlex
from pathlib import Path

import pytest
import snakemake_start

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """One shell command per rule of the default study, from a dry run."""
    options = ["--dry-run", "--printshellcmds", "--cores", "2"]
    targets = (
        "paper.pdf partial/report.html scale.md memory.md export/generator.onnx vae/packaged.safetensors bench/step.csv"
        " runs/meanflow/packaged.safetensors"
    )
    targets += " bench/store.csv bench/vae.csv bench/growth.csv atlas/release/manifest.json atlas/caches/maps.lmdb"
    targets += " growth/ladder/latents/scores.csv atlas/tables/leakage.csv"
    targets = [
        "all",
        "growth",
        "growth_long",
        "atlas",
        "atlas_points",
        "atlas_long",
        *(f"results/{name}" for name in targets.split()),
    ]
    folder = tmp_path_factory.mktemp("plan")
    (folder / "tumour_growth").mkdir()
    (folder / "tumour_growth/laleh2022_lesions.csv").touch()  # its jobs exist where the table does
    where = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    env = dict(os.environ, NEUROMF_REAL_DATA=str(folder))
    done = snakemake_start.snakemake([*options, *targets, *where], cwd=ROOT, env=env, check=True)
    lines = re.findall(r"^.*python -m workflow_scripts\.(\w+) (.*?) 2>&1 \| tee .*$", done.stdout, re.M)
    return dict(lines)


class Parsed(Exception):
    pass


def test_every_job_gives_its_script_the_options_it_declares(commands, monkeypatch):
    scripts = {path.stem for path in ROOT.glob("workflow_scripts/[a-z]*.py")}
    downloads = {"ixi", "maisi", "atlas_neurosynth", "atlas_statmaps"}
    assert scripts - commands.keys() <= downloads
    monkeypatch.setattr("neuromf.workflow.gates.require_open", lambda path: None)
    for name, line in commands.items():
        script = importlib.import_module(f"workflow_scripts.{name}")
        parse = script.arguments

        def stop(*args, parse=parse):
            raise Parsed(parse(*args))

        monkeypatch.setattr(script, "arguments", stop)
        with pytest.raises(Parsed):
            script.main(shlex.split(line))


@pytest.mark.critical
def test_no_training_job_is_given_latents_of_test_participants(commands):
    """Everything is chosen on training and validation participants; test participants are read by evaluation alone."""
    given = {
        name: [option for option in shlex.split(line) if "latents/test/" in option] for name, line in commands.items()
    }
    assert not given["train"] and len(given["latent_statistics"]) == len(given["posterior"]) > 0
