"""What all rules share: the plan of the study, wildcards, and the command line of a job."""

from neuromf.config.atlas import REAL_DATA
from neuromf.config.growth_model import read_preset
from neuromf.data.atlas_downloads import NEUROSYNTH_FILES
from neuromf.figures.catalogue import FIGURES, TABLES
from neuromf.workflow.arms import Arms
from neuromf.workflow.criteria import read_criteria
from neuromf.workflow.digests import code_digest, files_digest, resolve
from neuromf.workflow.dvc import stages as dvc_stages
from neuromf.workflow.listing import n_shards, plan_scans, shard_digest, source_values
from neuromf.workflow.params import as_json, command_line, dump, provenance
from neuromf.workflow.phases import inherited_phase

os.environ.setdefault(REAL_DATA, str(resolve("../shared/data")))
SCANS = plan_scans(cfg.cohort, main=workflow.is_main_process)
SHARDS = range(n_shards(SCANS.n, cfg.cohort.scans_per_shard))
ARMS = Arms(cfg)
ABLATIONS = ARMS.active
HAS_LESIONS = "lesions" in cfg.systems
# Phase 6 is about ablations, phase 7 about lesions.
CRITERIA = read_criteria(**cfg.gates.model_dump())
PHASES = [*range(6), *[6] * bool(ABLATIONS), *[7] * HAS_LESIONS, 8]


# Passed to jobs on a cluster, which look at no scan themselves, and must find the same data.
envvars:
    "NEUROMF_N_SCANS",
    "NEUROMF_REAL_DATA",


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


def available(wildcards, complete, paths):
    """Files for a script: the inputs of a complete artefact, or those of `paths` that exist now for a partial one.

    A partial artefact has no inputs, or it would wait for stale ones; the times of its files are among its params.
    """
    return [path for path in paths if os.path.exists(path)] if wildcards.part else complete


def step_settings(**more):
    """Network, flow and batch of the study, and the shape of its latents."""
    shape = [4, *(n // 4 for n in cfg.volumes.shape)]
    model = cfg.meanflow
    training = dump(model.train, "batch", "precision")
    return as_json(net=dump(model.net), flow=dump(model.flow), shape=shape, **training, **more)


def ixi_path(name):
    """A file or folder of IXI."""
    return str(resolve(cfg.cohort.ixi.folder) / name)


def maisi_path():
    """The file of the published autoencoder."""
    weights = cfg.autoencoder.weights
    return str(resolve("data/maisi/autoencoder_v1.pt" if weights in (None, "packaged") else weights))


def cohort_inputs():
    """What must exist before the cohort is listed: simulated shards, or the download of IXI."""
    if cfg.cohort.source == "embedded":
        return expand("results/phantom/{shard}", shard=SHARDS)
    return [ixi_path("participants.tsv")] if cfg.cohort.source == "ixi" else []


def cohort_source():
    """Keyword arguments of the cohort's reader: tables of the embedded cohort, or a source of scans."""
    if cfg.cohort.source == "embedded":
        return {"source": "embedded", "tables": [f"{folder}/participants.tsv" for folder in cohort_inputs()]}
    return source_values(cfg.cohort)


def ablation_table(name):
    """Table of the ablation that a figure shows, complete or partial."""
    return f"results/{{part}}ablations/{FIGURES[name].ablation}.csv"


def gate_before(wildcards):
    """The gate whose state this one inherits, if there is one."""
    before = inherited_phase(int(wildcards.phase), PHASES)
    return [] if before is None else [f"results/gates/phase_{before}.json"]


def samples_of(run, *nfe):
    """Folders of the volumes of a run, for these or all of its numbers of network evaluations."""
    return expand(rules.sample.output.out, run=run, nfe=nfe or ARMS.runs[run].samples.nfe)


def unless_partial(*paths):
    """Input function: these files for a complete artefact, none for a partial one."""
    return lambda w: [] if w.part else [*paths]


def report_settings(**more):
    """Artefacts, phases, runs, config and digests on the report page, and the reasons for what a study lacks."""
    why = "" if ABLATIONS else "no ablation is run"
    phases = {phase: "" if phase in PHASES else why if phase == 6 else "not in this study" for phase in range(9)}
    scripts = sorted(path.stem for path in Path(workflow.basedir).glob("workflow_scripts/[a-z]*.py"))
    figures = [name for name in FIGURES if name not in ("contact", "dashboard")]
    return as_json(
        study=cfg.study,
        run=RUN,
        source=cfg.cohort.source,
        figures={name: missing_reason(name) for name in figures} | {f"dashboard-{RUN}": ""},
        tables={name: missing_reason(name) for name in TABLES},
        phases=phases,
        runs=ARMS.served(),
        config=cfg.model_dump(mode="json"),
        digests={name: code_digest(f"workflow_scripts.{name}") for name in scripts},
        **more,
    )


def pair_tables():
    """Tables of real and of generated pairs for the report page; None without lesions."""
    if not HAS_LESIONS:
        return None
    generated = rules.sample_pairs.output.out.format(run=PAIR_RUN)
    return {"test": rules.pairs.output.pairs, "samples": f"{generated}/samples.tsv"}


def paper_files():
    """The paper as a PDF, or as LaTeX if no LaTeX is installed."""
    return rules.typeset.output.out if any(map(shutil.which, ("pdflatex", "tectonic"))) else rules.paper.output.out


def collapse_rows(length):
    """Rows of all arms and seeds of a collapse study."""
    study = COLLAPSE[length]
    return expand("results/growth/{length}/{arm}-{seed}/row.csv", length=length, arm=study.arms, seed=study.seeds)


def collapse_overrides(length):
    """Values of a collapse study on top of its preset."""
    return COLLAPSE[length].overrides(GROWTH.scale, GROWTH.overrides(GROWTH_ROOT)["data"])


def preset_values(path, overrides):
    """Values of a preset, which refuses wrong keys before any job; equal values make nothing stale."""
    return as_json(**read_preset(resolve(path), overrides))


def experiment_preset(wildcards):
    """Preset of an experiment of the growth system."""
    return getattr(GROWTH, wildcards.experiment.partition("-")[0]).preset


def experiment_overrides(wildcards):
    """Values of scale and source on top of the preset of an experiment, and its random seed if it names one."""
    values, seed = GROWTH.overrides(GROWTH_ROOT), wildcards.experiment.partition("-")[2]
    return {**values, "train": {**values["train"], "seed": int(seed)}} if seed else values


def real_volumes():
    """Table of real lesion volumes: below NEUROMF_REAL_DATA if that is set, else growth.ladder.real_table; or None."""
    table = dump(GROWTH.ladder, "real_table")["real_table"]
    if table and (root := os.environ.get("NEUROMF_REAL_DATA")):
        table = str(Path(root) / "tumour_growth" / Path(table).name)
    return table if table and os.path.exists(table) else None


def atlas_inputs():
    """Files of Neurosynth that the studies are read from; none for mock studies."""
    folder = f"{ATLAS_ROOT}/neurosynth_v7"
    return [] if ATLAS_SCALE == "mock" else [f"{folder}/{name}" for name in NEUROSYNTH_FILES]


def atlas_map(fwhm):
    """File of the maps of a kernel."""
    return f"results/atlas/maps/{fwhm:g}.npy"


def atlas_preset(name):
    """Values of a preset of the volume model with those of the study; mock studies train for three epochs."""
    short = {"train": {"steps": 9, "log_every": 1}} if ATLAS_SCALE == "mock" else {}
    values = read_atlas_preset(resolve(f"studies/atlas/{name}.yaml"), {**dump(ATLAS, "kernels", "combine"), **short})
    return as_json(grid=ATLAS.grid, **values)


ATLAS_SHORT = {  # steps of trainings by scale: mock tests the chain alone, the subset is for development
    "mock": {"points": 20, "ensemble": 10, "hvae": 60},
    "subset_1k": {"points": 100, "ensemble": 100, "hvae": 300},
}


def atlas_short(preset):
    """Values on top of a preset for mock studies and the subset; none for all studies."""
    steps = ATLAS_SHORT.get(ATLAS_SCALE)
    return {"train": {"steps": steps[preset], "warmup": 0, "log_every": 5}} if steps else {}


def atlas_criteria(stage):
    """Criteria of a stage of the atlas by id."""
    return {name: row._asdict() for name, row in CRITERIA.items() if name.startswith(f"S{stage}-")}


def atlas_dvc():
    """Stages of dvc.yaml for the rules of the atlas so far."""
    values = {"fwhm": [f"{fwhm:g}" for fwhm in ATLAS.kernels], "stage": list(ATLAS_MEASURED), "preset": ATLAS_PRESETS}
    values["ensemble"] = ["snapshot"]
    rules = [rule for rule in workflow.rules if rule.name.startswith("atlas_") and rule.name != "atlas_dvc"]
    inside = [rule for rule in rules if all(str(path).startswith("results/") for path in rule.output)]
    return dvc_stages(inside, values)
