"""What all scripts share: typed command-line arguments, one log format, and advice when memory or disk run out."""

import argparse
import atexit
import errno
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from types import TracebackType
from typing import Any

TYPES: dict[str, Callable[[str], Any]] = {"path": Path, "paths": Path, "int": int, "str": str, "json": json.loads}
TYPES |= {"strings": str, "optional": Path}
HELP = {
    "adapter": "adapter.safetensors of a fine-tuned run",
    "adversarial": "checkpoint of the run with adversaries",
    "arm": "name of the arm",
    "benchmarks": "folder of Snakemake's benchmarks",
    "bundle": "tarball of a release",
    "card": "card.json: config, versions and cost of a training",
    "cards": "card.json of every fine-tuned run",
    "check": "JSON file for the comparison with torch",
    "checkpoint": "checkpoint of a training",
    "config": "JSON with the config sections that the script uses, or file of a preset",
    "counterfactual": "page of the Counterfactual Machine",
    "diagnostics": "diagnostics.csv of a training",
    "downloads": "files, and folders of files, that a page links",
    "examples": "file of example images",
    "figures": "pictures of figures",
    "folder": "folder of one shard of prepared volumes with its qc.tsv, of a run, or of studies",
    "gaussian": "gaussian.safetensors: the prior of a fine-tuned run",
    "gates": "files of evaluated gates",
    "gpus": "GPUs of all nodes; 0: the machine's own GPU, or its CPU",
    "history": "history.csv of a training",
    "index": "folder of the splits and the list of subjects",
    "inputs": "result files and folders that may be read",
    "latents": "files of encoded latents",
    "lesions": "table with one row per lesion",
    "licences": "file of third-party licences",
    "look": "folder of previewed volumes",
    "maps": "file or folder of activation maps",
    "masks": "table with the Dice of encode-decode of masks",
    "measured": "JSON file of measured criteria",
    "memory_mb": "memory of the job in MB",
    "metrics": "table of metrics",
    "model": "model.pt of a run",
    "nearest": "table of generated volumes and their nearest training volumes",
    "nfe": "network evaluations per sample",
    "nodes": "number of nodes",
    "numbers": "JSON file with the source of every number of the paper",
    "odd": "table of outliers from the rule contact_sheet",
    "out": "file or folder to write",
    "overrides": "values on top of the preset: key=value, or JSON",
    "onnx": "folder of ONNX files",
    "page": "Markdown page to write",
    "pages": "HTML pages",
    "pairs": "table of image-mask pairs, or of generated and nearest volumes",
    "participants": "table of scans and participants",
    "real_features": "features of training and test scans, people.npz",
    "phase": "number of the phase",
    "points": "file of foci by study, or checkpoint of the point model",
    "previous": "gate of the phase before",
    "prior": "file of the latent prior",
    "privacy": "file with the privacy audit",
    "published": "table of published values",
    "qc": "qc.tsv: every scan, accepted or excluded with the reason",
    "questions": "table of ablation statistics",
    "reference": "metrics of real participants and controls",
    "regional": "table of regional volumes",
    "regions": "regional volumes of real participants",
    "result": "JSON file of results",
    "results": "test_results.json of a model",
    "run": "name of the run",
    "runs": "metrics and cards of runs",
    "samples": "folders or table of samples",
    "scans": "folder of downloaded scans",
    "schema": "schema of the metadata vector",
    "states": "file of forecast latents",
    "seed": "seed of a training",
    "shard": "number of the shard",
    "shards": "folders of prepared shards",
    "slider": "page of the Latent Slider",
    "spectra": "table of power spectra",
    "splits": "folder with the tables of splits",
    "stats": "stats.json: statistics of the training latents",
    "strategy": "JSON file with the chosen mask encoding",
    "studies": "folder of studies",
    "summary": "summary.csv of the torus",
    "table": "table to read or write",
    "tables": "tables to merge, or folder of tables",
    "test": "file to write with the latents of test scans",
    "tests": "test files",
    "text": "LaTeX file",
    "timing": "table of seconds per generated volume",
    "trajectories": "table of dated scans",
    "tree": "file with the tree of topics and its maps",
    "validation": "JSON report of reconstructions",
    "verdict": "JSON file of a verdict",
    "viewer": "script of the volume viewer",
    "volumes": "folders of volumes, or table of regional volumes",
    "weights": "weights of the autoencoder",
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
BATCH = {  # batch of a rule: key of the study's config, and place in the config of the script
    "autoencoder": ("autoencoder.batch", ("batch",)),
    "train": ("meanflow.train.batch", ("train", "batch")),
    "sample": ("meanflow.samples.batch", ("batch",)),
    "sample_pairs": ("meanflow.samples.batch", ("batch",)),
    "finetune": ("lesions.finetune.batch", ("finetune", "batch")),
}
NO_BATCH = {"train": "meanflow.net.widths", "finetune": "lesions.adapter.rank"}  # what remains at a batch of 1


def arguments(doc: str | None, argv: Sequence[str] | None, *names: str) -> argparse.Namespace:
    """Parsed command line for names such as "volumes", "phase:int", "config:json" or "shards:paths".

    A name without a type is a path; "paths" and "strings" take any number, "optional" is a path or missing. Other
    arguments are required, except --gate (a blocked gate ends the script here) and --code (digest of the code).
    """
    sys.excepthook = explain
    parser = argparse.ArgumentParser(description=doc)
    for name in names:
        name, _, kind = name.partition(":")
        several: dict[str, Any] = {"nargs": "*", "default": []} if kind in ("paths", "strings") else {"required": True}
        several = {"required": False} if kind == "optional" else several
        parser.add_argument(f"--{name}", type=TYPES[kind or "path"], help=HELP[name], **several)
    parser.add_argument("--gate", type=Path, help="gate of the phase before; a blocked one ends the script")
    parser.add_argument("--code", default="", help="digest of the code that runs")
    args = parser.parse_args(argv)
    sys.excepthook = partial(explain, config=getattr(args, "config", None))
    log_to_terminal()
    if not gc.isenabled():  # in a job: see __init__.py
        begin_work()
    if args.gate:
        from neuromf.workflow.gates import require_open

        require_open(args.gate)
    return args


def begin_work() -> None:
    """Start garbage collection, without what was imported: collecting that at the end of a job would take 1 s."""
    gc.freeze()
    gc.enable()
    atexit.register(log_work, time.monotonic())


def log_work(begun: float) -> None:
    """Log the seconds of work, the last line of a job's log, which tools/overhead.py reads."""
    cores = os.environ.get("OMP_NUM_THREADS", "1")  # set by Snakemake
    logging.getLogger("neuromf").info(
        "worked %.2f s on %s core%s", time.monotonic() - begun, cores, "s" * (cores != "1")
    )


def log_to_terminal() -> None:
    """Show messages of the library at level INFO on stderr."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True, width=110), show_path=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("neuromf").setLevel(logging.INFO)


def explain(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None, config: dict | None = None
) -> None:
    """Python's own report of an error, then one line of advice if memory, disk or permissions caused it."""
    sys.__excepthook__(kind, error, trace)
    if text := advice(error, Path(sys.argv[0]).stem, config or {}):
        print(text, file=sys.stderr, flush=True)


def advice(error: BaseException, rule: str, config: dict) -> str:
    """Advice for a rule that ran out of memory or disk, or lacks permission; "" for other errors.

    Arguments:
        error: What ended the script.
        rule: Name of the rule.
        config: Config of the script, from which the values to try follow.
    """
    number = getattr(error, "errno", None)
    path = os.path.abspath(getattr(error, "filename", None) or ".")
    if isinstance(error, MemoryError) or number == errno.ENOMEM or _no_memory(error):
        on_gpu = "CUDA" in str(error) or "on cuda" in str(error)
        raised = "" if on_gpu else f"raise its mem_mb (--set-resources {rule}:mem_mb=N, or the profile)"
        named = "autoencoder.num_splits" in str(error)  # the message has its own way out
        ways = [way for way in (raised, "" if named else smaller_batch(rule, config)) if way]
        memory = "GPU memory" if on_gpu else "memory"
        return f"Rule {rule} ran out of {memory}: {', or '.join(ways) or 'see the message above'}."
    if number in FULL:
        return f"Rule {rule}: the disk of {path} is full. Complete files are safe: free some space and run again."
    if number in DENIED:
        return f"Rule {rule} cannot write {path}. Make it writable, or choose another folder with --directory."
    return ""


def smaller_batch(rule: str, config: dict) -> str:
    """Config keys that lower the memory of a rule, with values to try and present values; "" if none is known."""
    if rule not in BATCH:
        return ""
    name, place = BATCH[rule]
    try:
        found: Any = reduce(lambda section, part: section[part], place, config)
    except KeyError:
        return ""
    batch = int(found)
    if batch == 1:
        return f"lower {NO_BATCH[rule]}" if rule in NO_BATCH else ""
    text = f"set {name} to {batch // 2} (now {batch})"
    if rule == "train":  # the same number of latents in each optimiser step
        now = config["train"].get("accumulate", 1)
        text += f" and meanflow.train.accumulate to {now * batch // (batch // 2)} (now {now})"
    return text


def _no_memory(error: BaseException) -> bool:
    """Whether torch reports that the memory of the machine or the GPU is exhausted."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("can't allocate", "out of memory"))
