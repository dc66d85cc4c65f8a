"""Growth of tumours: subjects with four contrasts, simulated or your own; their index and splits; figures."""

from neuromf.config.growth_model import LONG

GROWTH = cfg.growth
GROWTH_SIMULATED = GROWTH.data.source == "simulated"
GROWTH_ROOT = "results/growth/cohort" if GROWTH_SIMULATED else dump(GROWTH.data, "root")["root"]
GROWTH_FILES = [] if GROWTH_SIMULATED else [str(path) for path in sorted(Path(GROWTH_ROOT).glob("*/*.nii.gz"))]

EXPERIMENTS = ["exp1", "exp2", "exp3"]
EXPERIMENT = r"exp[123](-\d+)?"  # exp1-2 is experiment 1 with random seed 2
COLLAPSE = {"collapse": GROWTH.collapse, "collapse_long": GROWTH.collapse.model_copy(update=LONG)}


rule growth_simulate:
    """Simulate the longitudinal cohort: patients with growing tumours, four contrasts and a segmentation per visit."""
    output:
        out=directory("results/growth/cohort"),
    log:
        "results/logs/growth_simulate.log",
    benchmark:
        "results/benchmarks/growth_simulate.tsv"
    priority: 5  # the chain of growth starts here
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=4000 if GROWTH.scale in ("ci", "embedded") else 16000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(**GROWTH.simulated_cohort(), **dump(GROWTH.simulation, "ixi_root")),
        code=code_digest("workflow_scripts.growth_simulate"),
    shell:
        "python -m workflow_scripts.growth_simulate {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule growth_index:
    """List the subjects, exclude those that cannot be used with the reason, and split the others by patient."""
    input:
        after=rules.growth_simulate.output.out if GROWTH_SIMULATED else [],
    output:
        after=expand("results/growth/index/{name}.csv", name=["train", "val", "test", "retention"]),
        subjects="results/growth/index/subjects.tsv",
    log:
        "results/logs/growth_index.log",
    benchmark:
        "results/benchmarks/growth_index.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        # A function, since the regular expression in the config is no wildcard.
        cfg=lambda w: as_json(root_dir=GROWTH_ROOT, **GROWTH.index_values()),
        digest=file_times(GROWTH_FILES),
        folder=subpath(output.subjects, parent=True),
        code=code_digest("workflow_scripts.growth_index"),
    shell:
        "python -m workflow_scripts.growth_index --out {params.folder:q} --config {params.cfg:q} 2>&1 | tee {log:q}"


# Figure F1: patients, visits and contrasts.
use rule fig_1 as growth_fig_1 with:
    input:
        after=[rules.growth_index.output.after, *rules.growth_index.input],
    output:
        pdf="results/growth/figures/fig_1.pdf",
        png=in_report("results/growth/figures/fig_1.png", "Growth", figure="F1", shows="patients and visits"),
        facts="results/growth/figures/fig_1.json",
    log:
        "results/logs/growth_fig_1.log",
    benchmark:
        "results/benchmarks/growth_fig_1.tsv"
    params:
        script="growth_fig_1",
        files=lambda w, input: command_line({"index": os.path.dirname(input.after[0])}),
        cfg=lambda w: as_json(
            study=cfg.study,
            values=GROWTH.model_dump(mode="json"),
            simulated=GROWTH.statement(),
            trajectories=f"{GROWTH_ROOT}/trajectories.tsv" if GROWTH_SIMULATED else None,
            **dump(GROWTH.data, "modalities", "label_map"),
        ),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.growth_fig_1"),


rule growth_train:
    """Train one experiment: exp1, a variational autoencoder, exp2, DIP-VAE, exp3, supervised parts; exp1-1: seed 1."""
    input:
        after=rules.growth_index.output.after,
    output:
        # The last file that a training writes. Checkpoints are no outputs, since a killed training resumes from them.
        after="results/growth/runs/{experiment}/provenance.json",
        history="results/growth/runs/{experiment}/logs/epoch_metrics.csv",
    log:
        "results/logs/growth_train/{experiment}.log",
    benchmark:
        "results/benchmarks/growth_train/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENT,
    priority: 10  # as train
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=6000,
        runtime=720,
    params:
        preset=lambda w: str(resolve(experiment_preset(w))),
        values=lambda w: preset_values(experiment_preset(w), experiment_overrides(w)),
        cfg=lambda w: as_json(**experiment_overrides(w)),
        splits=lambda w, input: os.path.dirname(input.after[0]),
        folder=subpath(output.after, parent=True),
        code=code_digest("workflow_scripts.growth_train"),
    shell:
        "python -m workflow_scripts.growth_train --config {params.preset:q} --overrides {params.cfg:q}"
        " --splits {params.splits:q} --out {params.folder:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule growth_exp1:
    """Target: experiment 1 alone."""
    input:
        expand(rules.growth_train.output, experiment="exp1"),
    localrule: True


rule growth_exp2:
    """Target: experiment 2 alone."""
    input:
        expand(rules.growth_train.output, experiment="exp2"),
    localrule: True


rule growth_exp3:
    """Target: experiment 3 alone."""
    input:
        expand(rules.growth_train.output, experiment="exp3"),
    localrule: True


rule growth_latents:
    """Encode the subjects of an experiment into a store of latents."""
    input:
        after=rules.growth_train.output,
    output:
        out="results/growth/latents/{experiment}.npz",
    log:
        "results/logs/growth_latents/{experiment}.log",
    benchmark:
        "results/benchmarks/growth_latents/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENT,
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        folder=lambda w, input: os.path.dirname(input.after[0]),
        trajectories=["--trajectories", f"{GROWTH_ROOT}/trajectories.tsv"] if GROWTH_SIMULATED else [],
        code=code_digest("workflow_scripts.growth_latents"),
    shell:
        "python -m workflow_scripts.growth_latents {params.files} --folder {params.folder:q} {params.trajectories:q}"
        " 2>&1 | tee {log:q}"


rule growth_collapse:
    """Train one arm of the collapse study with one seed, and evaluate its latent; a killed training resumes."""
    input:
        after=rules.growth_index.output.after,
    output:
        after="results/growth/{length}/{arm}-{seed}/row.csv",
    log:
        "results/logs/growth_collapse/{length}-{arm}-{seed}.log",
    benchmark:
        "results/benchmarks/growth_collapse/{length}-{arm}-{seed}.tsv"
    wildcard_constraints:
        length="collapse|collapse_long",
        arm="[a-z0-9_]+",
        seed=r"\d+",
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=6000,
        runtime=120,
    params:
        preset=str(resolve(GROWTH.collapse.preset)),
        values=lambda w: preset_values(GROWTH.collapse.preset, collapse_overrides(w.length)),
        cfg=lambda w: as_json(**collapse_overrides(w.length)),
        splits=lambda w, input: os.path.dirname(input.after[0]),
        code=code_digest("workflow_scripts.growth_collapse"),
    shell:
        "python -m workflow_scripts.growth_collapse --config {params.preset:q} --overrides {params.cfg:q}"
        " --arm {wildcards.arm:q} --seed {wildcards.seed:q} --splits {params.splits:q} --out {output.after:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


# Figure F2: the collapse study.
use rule fig_1 as growth_fig_2 with:
    input:
        tables=lambda w: collapse_rows("collapse"),
    output:
        table="results/growth/tables/collapse.csv",
        pdf="results/growth/figures/fig_2.pdf",
        png=in_report("results/growth/figures/fig_2.png", "Growth", figure="F2", shows="collapse of the latent"),
        facts="results/growth/figures/fig_2.json",
    log:
        "results/logs/growth_fig_2.log",
    benchmark:
        "results/benchmarks/growth_fig_2.tsv"
    params:
        script="growth_fig_2",
        files=files,
        cfg=as_json(study=cfg.study, values=GROWTH.collapse.model_dump(mode="json"), simulated=GROWTH.statement()),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.growth_fig_2"),


use rule growth_fig_2 as growth_fig_2_long with:
    input:
        tables=lambda w: collapse_rows("collapse_long"),
    output:
        table="results/growth/tables/collapse_long.csv",
        pdf="results/growth/figures/fig_2_long.pdf",
        png="results/growth/figures/fig_2_long.png",
        facts="results/growth/figures/fig_2_long.json",
    log:
        "results/logs/growth_fig_2_long.log",
    benchmark:
        "results/benchmarks/growth_fig_2_long.tsv"


rule growth_disentangle:
    """Evaluate which part of the latent predicts which factor on test patients, and traverse the volume."""
    input:
        latents=rules.growth_latents.output.out,
    output:
        "results/growth/disentanglement/{experiment}.npz",
        out="results/growth/disentanglement/{experiment}.json",
    log:
        "results/logs/growth_disentangle/{experiment}.log",
    benchmark:
        "results/benchmarks/growth_disentangle/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENT,
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        folder="results/growth/runs/{experiment}",
        code=code_digest("workflow_scripts.growth_disentangle"),
    shell:
        "python -m workflow_scripts.growth_disentangle {params.files} --folder {params.folder:q} 2>&1 | tee {log:q}"


# Figure F3: disentanglement of the three experiments.
use rule fig_1 as growth_fig_3 with:
    input:
        tables=expand(rules.growth_disentangle.output.out, experiment=EXPERIMENTS),
    output:
        table="results/growth/tables/disentanglement.csv",
        pdf="results/growth/figures/fig_3.pdf",
        png=in_report("results/growth/figures/fig_3.png", "Growth", figure="F3", shows="disentanglement"),
        facts="results/growth/figures/fig_3.json",
    log:
        "results/logs/growth_fig_3.log",
    benchmark:
        "results/benchmarks/growth_fig_3.tsv"
    params:
        script="growth_fig_3",
        files=files,
        cfg=as_json(study=cfg.study, simulated=GROWTH.statement()),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.growth_fig_3"),


rule growth_image_forecast:
    """Forecast the image of the last visit of test patients, beside the last scan carried forward."""
    input:
        latents=rules.growth_latents.output.out.format(experiment="exp3"),
        states="results/growth/ladder/volume_latent/latents.npz",
    output:
        table="results/growth/forecast/images.csv",
        examples="results/growth/forecast/images.npz",
        out="results/growth/forecast/images.json",
    log:
        "results/logs/growth_image_forecast.log",
    benchmark:
        "results/benchmarks/growth_image_forecast.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        folder="results/growth/runs/exp3",
        code=code_digest("workflow_scripts.growth_image_forecast"),
    shell:
        "python -m workflow_scripts.growth_image_forecast {params.files} --folder {params.folder:q} 2>&1 | tee {log:q}"


rule growth_maisi:
    """Encode the subjects with the frozen MAISI autoencoder, for comparison, and evaluate its latent."""
    input:
        after=rules.growth_train.output.after.format(experiment="exp1"),
    output:
        latents="results/growth/latents/maisi.npz",
        out="results/growth/disentanglement/maisi.json",
    log:
        "results/logs/growth_maisi.log",
    benchmark:
        "results/benchmarks/growth_maisi.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        folder=subpath(input.after, parent=True),
        code=code_digest("workflow_scripts.growth_maisi"),
    shell:
        "python -m workflow_scripts.growth_maisi {params.files} --folder {params.folder:q} 2>&1 | tee {log:q}"


rule growth_seeds:
    """Compare the three experiments over three random seeds, and the frozen MAISI autoencoder."""
    input:
        tables=[
            *expand(
                rules.growth_disentangle.output.out, experiment=[f"{e}-{k}" for e in EXPERIMENTS for k in range(3)]
            ),
            rules.growth_maisi.output.out,
        ],
    output:
        table="results/growth/tables/seeds.csv",
        out="results/growth/tables/seeds_summary.csv",
    log:
        "results/logs/growth_seeds.log",
    benchmark:
        "results/benchmarks/growth_seeds.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        files=files,
        code=code_digest("workflow_scripts.growth_seeds"),
    shell:
        "python -m workflow_scripts.growth_seeds {params.files} 2>&1 | tee {log:q}"


rule growth_long:
    """Target: the collapse study with all losses and decoders at length, the experiments with three seeds; it resumes."""
    input:
        rules.growth_fig_2_long.output,
        rules.growth_seeds.output,
        "results/growth/ladder/logistic/scores.csv",
    localrule: True


rule growth:
    """Target: the growth system so far."""
    input:
        rules.growth_fig_1.output,
        rules.growth_exp1.input,
        rules.growth_exp2.input,
        rules.growth_exp3.input,
        expand(rules.growth_latents.output, experiment=EXPERIMENTS),
        rules.growth_fig_2.output,
        rules.growth_fig_3.output,
        rules.growth_image_forecast.output if GROWTH_SIMULATED else [],  # scans with dates
        expand("results/growth/gates/{experiment}.json", experiment=EXPERIMENTS),
        "results/growth/figures/fig_4.pdf",
        expand("results/growth/figures/{name}.pdf", name=["fig_5", "headline"]) if GROWTH_SIMULATED else [],
        "results/growth/model_card.md",
        "results/growth/report.html",
        "results/growth/figures/fig_6.pdf" if real_volumes() else [],
    localrule: True
