"""What rules about the page, the paper and the run for others share: what this study has, and why not the rest."""

import shutil
from pathlib import Path

FIGURES = [*(f"fig_{n}" for n in range(1, 9)), "latents", "privacy"]
TABLES = [f"table_{n}" for n in range(1, 5)]
LESIONS = ("fig_7", "table_4")  # what is about them


def in_report(path, category, **labels):
    """A file that Snakemake's own report shows, with the caption that the rule captions writes for it."""
    return report(path, caption="caption.rst", category=category, labels=labels)


def why_not(name):
    """Why this study has no figure or table of a name; "" where it has one."""
    ablation = {**DRAWN, **TABLED}.get(name)
    if ablation and ablation not in cfg.active:
        return f"the ablation {ablation} is not active"
    if name in LESIONS and cfg.fcd.source == "none":
        return "this study has no lesions"
    return ""


def reported(part, *suffixes):
    """Files of all figures and tables of this study with these suffixes; none is waited for in a partial report."""
    if part:
        return []
    figures = [name for name in FIGURES if not why_not(name)]
    figures += ["contact", f"dashboard-{RUN}"]
    tables = [name for name in TABLES if not why_not(name)]
    return expand("results/figures/{name}.{suffix}", name=figures, suffix=suffixes) + [
        f"results/tables/{name}.json" for name in tables
    ]


def shown_paper():
    """Side files of the figures and tables of the paper that this study has, by name."""
    figures = [f"fig_{n}" for n in range(1, 9) if not why_not(f"fig_{n}")]
    tables = [name for name in TABLES if not why_not(name)]
    return {name: f"results/figures/{name}.json" for name in figures} | {
        name: f"results/tables/{name}.json" for name in tables
    }


def looked(wildcards):
    """Folders of the samples that the page shows: those of the run, at every number of evaluations."""
    return expand(
        rules.sample.output.folder, run=RUN, steps=RUNS[RUN].samples.evaluations
    )


def lesions_looked():
    """What is shown of lesions: real pairs, and those of the main run, where the study has some."""
    if why_not("fig_7"):
        return []
    drawn = rules.joint_samples.output.folder.format(run=JOINT)
    return [rules.pairs.output.pairs, rules.pairs.output.volumes, drawn]


def look_values():
    """How many cases are shown, of which run, and tables of pairs with lesions, real and generated, if there are."""
    pairs = lesions_looked() and {
        "real": rules.pairs.output.pairs,
        "generated": f"{lesions_looked()[-1]}/samples.tsv",
    }
    return as_json(n=2, run=RUN, spacing_mm=cfg.volumes.spacing_mm, pairs=pairs)


def report_values(part):
    """What a whole page of this study has, and why it lacks the rest."""
    shown = [*FIGURES, f"dashboard-{RUN}"]
    idle = "" if cfg.active else "no ablation is active"
    phases = {
        phase: "" if phase in PHASES else idle if phase == 6 else "not in this study"
        for phase in range(9)
    }
    arms = {
        run: [f"{m.ablation}: {m.arm}, seed {m.seed}" for m in ARMS if m.run == run]
        for run in RUNS
    }
    scripts = sorted(Path(workflow.basedir).glob("workflow_scripts/[a-z]*.py"))
    return as_json(
        study=cfg.study,
        run=RUN,
        partial=bool(part),
        source=cfg.cohort.source,
        figures={name: why_not(name) for name in shown},
        tables={name: why_not(name) for name in TABLES},
        phases=phases,
        runs=arms,
        config=cfg.model_dump(mode="json"),
        digests={p.stem: code_digest(f"workflow_scripts.{p.stem}") for p in scripts},
    )


# --- export ------------------------------------------------------------------------------------------


TOLD = range(6)  # gates of the model card: those that judge the run


def export_values():
    """What the run is of, how its volumes are drawn, and the terms of the autoencoder behind it."""
    terms = {"weights", "steps", "sha256", "url", "licence"}
    autoencoder = cfg.vae.model_dump(mode="json", include=terms)
    if autoencoder["weights"] not in (None, "packaged"):
        autoencoder["weights"] = maisi_path()
    how = cfg.samples.model_dump(
        exclude={"n", "evaluations", "timed_seconds"}, mode="json"
    )
    return as_json(
        study=cfg.study,
        run=RUN,
        source=cfg.cohort.source,
        spacing_mm=cfg.volumes.spacing_mm,
        evaluations=cfg.samples.evaluations,
        n_samples=cfg.samples.n,
        sampling={"steps": 1, "spacing_mm": cfg.volumes.spacing_mm, **how},
        threads=1,
        vae=autoencoder,
        phases=[*TOLD],
    )


def onnx_values():
    """The noise that the file is held against torch with, and what it says of itself."""
    return as_json(study=cfg.study, run=RUN, seed=cfg.samples.seed, n=4)


# --- paper -------------------------------------------------------------------------------------------


def paper_values():
    """What the paper is of, which figures and tables it has, and the sections of the config that it tells."""
    sections = "cohort volumes vae latents net flow train samples metrics torus".split()
    dumped = cfg.model_dump(mode="json")
    return as_json(
        study=cfg.study,
        run=RUN,
        evaluations=cfg.samples.evaluations,
        phases=[*PHASES],
        figures={f"fig_{n}": why_not(f"fig_{n}") for n in range(1, 9)},
        tables={name: why_not(name) for name in TABLES},
        values={name: dumped[name] for name in sections},
    )


def paper_tables():
    """The tables that this study has, in LaTeX."""
    tables = [name for name in TABLES if not why_not(name)]
    return expand("results/tables/{name}.tex", name=tables)


def paper_made():
    """The paper as a PDF; where no LaTeX is installed, as LaTeX, and the rule paper says how to get one."""
    there = any(map(shutil.which, ("pdflatex", "tectonic")))
    return rules.typeset.output.pdf if there else rules.paper.output.text
