"""What all rules share: the plan of the study, wildcards, and the command line of a job."""

from neuromf.figures.catalogue import FIGURES, TABLES
from neuromf.workflow.arms import Arms
from neuromf.workflow.digests import code_digest, files_digest, resolve
from neuromf.workflow.listing import list_scans, n_shards, source_values
from neuromf.workflow.params import as_json, command_line, dump, provenance

SCANS = list_scans(cfg.cohort)
SHARDS = range(n_shards(SCANS.n, cfg.cohort.scans_per_shard))
ARMS = Arms(cfg)
ABLATIONS = ARMS.active
HAS_LESIONS = "lesions" in cfg.systems
# Phase 6 is about ablations, phase 7 about lesions.
PHASES = [*range(6), *[6] * bool(ABLATIONS), *[7] * HAS_LESIONS, 8]


wildcard_constraints:
    shard=r"\d+",
    run=r"[a-z0-9][a-z0-9.-]*",
    nfe=r"\d+",
    phase=r"\d",
    part=r"(partial/)?",


def files(wildcards, input, output):
    """Named inputs and outputs of a job as options of its script."""
    return command_line(input, output)


def inputs(wildcards, input):
    """Named inputs of a job as options of its script."""
    return command_line(input)


def half_the_cores():
    """Threads of a training: on a CPU, two trainings at once make 1.2 to 1.3 times as many steps per second."""
    cores = workflow.resource_settings.cores  # None on a cluster
    return 8 if workflow.remote_exec or cores is None else max(1, min(8, cores // 2))


def missing_reason(name):
    """Reason why this study lacks a figure or table of the catalogue; "" if it has it."""
    entry = {**FIGURES, **TABLES}[name]
    if entry.ablation and entry.ablation not in ABLATIONS:
        return f"the ablation {entry.ablation} is not run"
    return "this study has no lesions" if entry.lesions and not HAS_LESIONS else ""


def in_study(catalogue):
    """Names of the figures or tables of a catalogue that this study has."""
    return [name for name in catalogue if not missing_reason(name)]


def in_report(path, category, **labels):
    """A file in Snakemake's own report, with the caption that the rule captions writes."""
    return report(path, caption="caption.rst", category=category, labels=labels)


PAPER_FIGURES = [name for name in FIGURES if name.startswith("fig_")]


def artefacts(*suffixes):
    """Files of all figures and tables of this study with these suffixes; tables have JSON alone."""
    names = [f"dashboard-{RUN}" if name == "dashboard" else name for name in in_study(FIGURES)]
    return [
        *expand("results/figures/{name}.{suffix}", name=names, suffix=suffixes),
        *expand("results/tables/{name}.json", name=in_study(TABLES)),
    ]


def findings(part):
    """Tables and figures of the ablations that are run; part is empty or "partial/"."""
    figures, tables = ([name for name in in_study(c) if c[name].ablation] for c in (FIGURES, TABLES))
    return [
        *expand("results/{part}ablations/{name}.csv", part=part, name=[*ABLATIONS, "questions"] if ABLATIONS else []),
        *expand("results/{part}figures/{name}.pdf", part=part, name=figures),
        *expand("results/{part}tables/{name}.tex", part=part, name=tables),
    ]


def side_files():
    """Side files of the figures and tables of the paper, by name."""
    figures = [name for name in in_study(FIGURES) if name in PAPER_FIGURES]
    return {name: f"results/figures/{name}.json" for name in figures} | {
        name: f"results/tables/{name}.json" for name in in_study(TABLES)
    }
