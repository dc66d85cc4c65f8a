"""What all of them share: shards, wildcards, parameters."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from neuromf.sources.pairs import read_pairs
from neuromf.workflow import (
    as_json,
    code_digest,
    files_digest,
    list_scans,
    n_shards,
    resolve,
    source_values,
)

SCANS = list_scans(cfg.cohort)
SHARDS = range(n_shards(SCANS.n, cfg.cohort.scans_per_shard))
# of what this study does: 6 is about ablations, 7 about lesions
PHASES = [*range(6), *[6] * bool(cfg.active), *[7] * (cfg.fcd.source != "none"), 8]


wildcard_constraints:
    shard=r"\d+",
    run=r"[a-z0-9][a-z0-9.-]*",
    steps=r"\d+",
    phase=r"\d",


def values(section, *names):
    """One JSON string of all of a config section, or of the named keys of it."""
    dumped = section.model_dump(mode="json")
    return as_json(**({name: dumped[name] for name in names} if names else dumped))


def run_values(wildcards):
    """What trains a run: its network, flow and training; a path is taken from the repository's root."""
    run = RUNS[wildcards.run]
    train = run.train.model_dump(mode="json")
    if run.train.start:
        train["start"]["weights"] = str(resolve(run.train.start.weights))
    return as_json(net=run.net.model_dump(), flow=run.flow.model_dump(), train=train)


def sample_values(wildcards):
    """How volumes of a run are drawn; the number of evaluations is the rule's own."""
    samples = RUNS[wildcards.run].samples.model_dump(
        exclude={"evaluations", "timed_seconds"}
    )
    return as_json(spacing_mm=cfg.volumes.spacing_mm, **samples)


def samples_of(wildcards):
    """Folders of the volumes of a run, one for each number of evaluations that it is asked for."""
    steps = RUNS[wildcards.run].samples.evaluations
    return expand(rules.sample.output.folder, run=wildcards.run, steps=steps)


def validate_values():
    """How many held-out volumes are judged, how, and by which LPIPS where its weights are given."""
    lpips = cfg.vae.lpips and str(resolve(cfg.vae.lpips))
    return as_json(n=cfg.latents.n_validated, lpips=lpips)


def reference_values(**more):
    """How volumes are measured; weights of published features are taken from the repository's root."""
    metrics = cfg.metrics.model_dump(exclude_none=True, exclude={"arms"})
    for features in metrics["features"]:
        if "weights" in features:
            features["weights"] = str(resolve(features["weights"]))
    return as_json(spacing_mm=cfg.volumes.spacing_mm, seed=cfg.seed, **metrics, **more)


def measure_values(wildcards):
    """The same, how the volumes of a run were drawn, and whether all that can be said of them is measured."""
    samples = RUNS[wildcards.run].samples
    deep = wildcards.run == RUN or cfg.metrics.arms == "all"
    return reference_values(sampler=samples.sampler, asked=samples.n, deep=deep)


def timing_values(wildcards):
    """How long each part is timed, and how volumes of the run are drawn."""
    run = RUNS[wildcards.run].samples
    few = [1, max(run.evaluations)]
    return as_json(
        evaluations=sorted(set(few)),
        sampler=run.sampler,
        seconds=cfg.samples.timed_seconds,
        precision=run.precision,
        memory_mb=7000,
    )


def bench_values():
    """The network, flow and batch of the study, and the shape of its latents."""
    return as_json(
        net=cfg.net.model_dump(),
        flow_=cfg.flow.model_dump(mode="json"),
        shape=[4, *(n // 4 for n in cfg.volumes.shape)],
        batch=cfg.train.batch,
        precision=cfg.train.precision,
    )


def verification_tests():
    """The files of the tests that judge a phase, named from the repository's root, wherever that lies."""
    names = ("flow", "nets", "training")
    return [f"tests/test_{name}.py" for name in names]


def cohort_values():
    """The source of scans: the tables of the embedded cohort, or where others lie and how they are read."""
    shares = cfg.cohort.split.model_dump()
    if cfg.cohort.source == "embedded":
        tables = expand("results/phantom/{shard}/participants.tsv", shard=SHARDS)
        source = {"source": "embedded", "tables": tables}
    else:
        source = source_values(cfg.cohort)
    return as_json(shares=shares, seed=cfg.seed, **source)


def cohort_inputs():
    """What is made before the cohort is listed: the folders of the embedded cohort, or what is fetched of IXI."""
    if cfg.cohort.source == "embedded":
        return expand("results/phantom/{shard}", shard=SHARDS)
    if cfg.cohort.source == "ixi":
        return [ixi_path("participants.tsv")]
    return []


def ixi_path(name):
    """A file or folder of IXI as it is laid out."""
    return str(resolve(cfg.cohort.ixi.folder) / name)


def ixi_values():
    """Addresses and digests of IXI, and how many scans are expected."""
    return as_json(**cfg.cohort.ixi.model_dump(exclude={"folder"}))


def maisi_path():
    """Where the published autoencoder lies, or will."""
    own = cfg.vae.weights in (None, "packaged")
    return str(resolve("data/maisi/autoencoder_v1.pt" if own else cfg.vae.weights))


def maisi_values():
    """The address of the published autoencoder, its digest and licence."""
    return values(cfg.vae, "url", "sha256", "licence")


def vae_values():
    """The autoencoder of the study; a path to weights is taken from the repository's root."""
    settings = cfg.vae.model_dump(mode="json", exclude={"url", "licence", "lpips"})
    if settings["weights"] not in (None, "packaged"):
        settings["weights"] = maisi_path()
    return as_json(**settings, seed=cfg.seed)


def encode_values():
    """How volumes are encoded, and the seed of their augmentation."""
    return as_json(
        **cfg.latents.model_dump(mode="json", exclude={"n_validated"}), seed=cfg.seed
    )


def gate_before(wildcards):
    """The gate of the phase before, which blocks this one with it."""
    before = [phase for phase in PHASES if phase < int(wildcards.phase)]
    return [f"results/gates/phase_{phase}.json" for phase in before[-1:]]


def privacy_values():
    """How images are compared, and how many pairs are drawn."""
    return as_json(
        study=cfg.study,
        run=RUN,
        seed=cfg.seed,
        spacing_mm=cfg.volumes.spacing_mm,
        factor=4,
        pairs=3,
    )


def provenance(*sections, **more):
    """What made a figure, for its metadata and side file: study, run, and the values behind it."""
    dumped = cfg.model_dump(mode="json")
    return as_json(
        study=cfg.study,
        run=RUN,
        seed=cfg.samples.seed,
        spacing_mm=cfg.volumes.spacing_mm,
        values={name: dumped[name] for name in sections},
        **more,
    )


# --- ablations ---------------------------------------------------------------------------------------


DRAWN = {
    "fig_4": "rectified",
    "fig_5": "lp",
    "fig_6": "prediction",
}  # the ablation of a figure
TABLED = {"table_2": "prediction", "table_3": "lp"}  # and of a table


def arms_of(ablation):
    """Arm, seed and run of each member of an ablation; none of an idle one."""
    return [[m.arm, m.seed, m.run] for m in ARMS if m.ablation == ablation]


def files_of(ablation):
    """What is known of the runs of an ablation once they are made: metrics and cards."""
    runs = dict.fromkeys(run for _, _, run in arms_of(ablation))
    return expand(
        ["results/runs/{run}/metrics.csv", "results/runs/{run}/card.json"], run=runs
    )


def times_of(files):
    """How many of these files are there, and since when: what a partial result was made from."""
    times = [os.stat(name).st_mtime_ns for name in files if os.path.exists(name)]
    return f"{len(times)} of {len(files)} files, newest {max(times, default=0)}"


def base_arm(ablation):
    """The arm that has the network, flow and sampler of the config as it stands; else the first."""
    same = [
        arm
        for arm, _, run in arms_of(ablation)
        if (RUNS[run].net, RUNS[run].flow, RUNS[run].samples.sampler)
        == (cfg.net, cfg.flow, cfg.samples.sampler)
    ]
    return (same or [arm for arm, _, _ in arms_of(ablation)])[0]


def shown(ablation):
    """The run of each arm whose samples are shown, that of its first seed."""
    return {arm: run for arm, _, run in reversed(arms_of(ablation))}


def quoted():
    """The table of published numbers, where the study has one."""
    return [str(resolve(cfg.questions.quoted))] if cfg.questions.quoted else []


def question_values():
    """What every question is asked of, and of which margin; the arm that each ablation starts from."""
    asked = cfg.questions.model_dump(exclude={"quoted"})
    return as_json(base={name: base_arm(name) for name in cfg.active}, **asked)


def compared(ablation, **more):
    """What a figure of an ablation was made from, and what it draws."""
    return as_json(
        study=cfg.study,
        ablation=ablation,
        arms=arms_of(ablation),
        base=base_arm(ablation) if ablation in cfg.active else None,
        spacing_mm=cfg.volumes.spacing_mm,
        **cfg.questions.model_dump(exclude={"margin", "quoted"}),
        **more,
    )


def tabled(ablation):
    """What a table of arms shows: the distance of the questions, KID in the same features, and the likeness of pairs."""
    asked = cfg.questions.distance
    shown = [
        asked.model_dump(),
        {"metric": "kid", "features": asked.features},
        cfg.questions.similarity.model_dump(exclude={"goal"}),
    ]
    return as_json(
        study=cfg.study, ablation=ablation, arms=arms_of(ablation), shown=shown
    )


def findings(part):
    """Files of the active ablations, complete or partial: tables, figures, tables of the paper."""
    if not cfg.active:
        return []
    figures = [name for name, ablation in DRAWN.items() if ablation in cfg.active]
    tables = [name for name, ablation in TABLED.items() if ablation in cfg.active]
    return [
        *expand(
            "results/{part}ablations/{name}.csv",
            part=part,
            name=[*cfg.active, "questions"],
        ),
        *expand("results/{part}figures/{name}.pdf", part=part, name=figures),
        *expand("results/{part}tables/{name}.tex", part=part, name=tables),
    ]


# --- fcd ---------------------------------------------------------------------------------------------


STRATEGIES = ("vae", "distance", "downsample", "level")  # of masks


def lesions_values():
    """How many people with dysplasia, its signs, and the scanner of the embedded cohort."""
    simulated = cfg.fcd.simulated.model_dump()
    scanner = cfg.cohort.embedded.model_dump(exclude={"n_people", "seed"})
    return as_json(**simulated, **scanner)


def pairs_inputs():
    """What is made before pairs are listed."""
    simulated = cfg.fcd.source == "simulated"
    return [rules.lesions.output.folder] if simulated else []


def pairs_source():
    """Where pairs lie and how they are named, as neuromf.sources.pairs takes it."""
    source = cfg.fcd.source
    if source == "none":
        return {
            "source": source,
            "root": "",
        }  # refused by the job, were it ever asked for
    if source == "simulated":
        return {"source": "bids", "root": "results/fcd/phantom"}
    section = getattr(cfg.fcd, source).model_dump()
    return {"source": source, **section, "root": str(resolve(section["root"]))}


def pairs_values():
    """The source of pairs, and how they are prepared and shared out."""
    grid = cfg.volumes.model_dump(mode="json")
    shares = cfg.fcd.split.model_dump()
    return as_json(
        source=pairs_source(), prepare={"shares": shares, "seed": cfg.seed, **grid}
    )


def pairs_files():
    """A digest of the files of a source that is there before any job; none of one that is made."""
    if cfg.fcd.source in ("none", "simulated"):
        return ""
    try:
        rows = read_pairs(**pairs_source())
    except ValueError as error:
        raise SystemExit(f"fcd.{cfg.fcd.source}: {error}") from error
    listed = "\n".join(as_json(**row) for row in rows)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def pair_latents_values():
    """How pairs are encoded, and how many copies of those in training."""
    how = cfg.latents.model_dump(include={"augmentation", "precision"})
    return as_json(copies=cfg.fcd.copies, seed=cfg.seed, **how)


# --- joint -------------------------------------------------------------------------------------------


# settings of every run of image and mask together, and the run of every arm; the first is that of figures and gates
JOINTS, JOINT_ARMS = cfg.fcd.joints()
JOINT = next(iter(JOINTS))


TUNED = {  # what a fine-tuning takes over from the run it starts from
    "flow": (
        "times",
        "tangent",
        "derivative",
        "adaptive_power",
        "adaptive_c",
        "adaptive_over",
    ),
    "train": (
        "weight_decay",
        "lr_end",
        "ema_images",
        "clip",
        "precision",
        "checkpoint_every",
    ),
}


def joint_values(wildcards):
    """What fine-tunes a run: its own settings, and those of the run it starts from."""
    dumped = cfg.model_dump(mode="json")
    taken = {
        section: {name: dumped[section][name] for name in names}
        for section, names in TUNED.items()
    }
    return as_json(**taken, **JOINTS[wildcards.run].model_dump(mode="json"))


def joint_samples_values():
    """How many pairs are drawn, and what sets the threshold of their masks."""
    fcd, drawn = cfg.fcd, cfg.samples
    return as_json(
        n=fcd.n_samples,
        threshold=fcd.threshold,
        seed=drawn.seed,
        batch=drawn.batch,
        spacing_mm=cfg.volumes.spacing_mm,
    )


def joint_metrics_values():
    """How pairs are measured: the features of the study, and redraws of intervals."""
    known = json.loads(reference_values())
    return as_json(
        **{name: known[name] for name in ("features", "spacing_mm", "seed", "n_boot")}
    )


def segmentation_values():
    """Steps of the segmentation network, and the seeds it is trained with."""
    return as_json(steps=cfg.fcd.segmentation_steps, seeds=[cfg.seed, cfg.seed + 1])


# --- report ------------------------------------------------------------------------------------------


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
