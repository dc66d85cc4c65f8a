"""Figures, each from result files only: a changed figure trains nothing. All rules are like fig_1."""

PUBLISHED = dump(cfg.meanflow.ablations, "published")["published"]  # table of published values, or None
# Volumes of the first seed of each arm of figure 6.
PREDICTION_SAMPLES = [folder for run in ARMS.first_runs("prediction").values() for folder in samples_of(run, 1)]


rule fig_1:
    """The method at a glance, with brains of this study."""
    input:
        qc=rules.qc.output.out,
        latents=rules.latent_statistics.input.latents,
        stats=rules.latent_statistics.output.out,
        samples=samples_of(RUN, 1),
    output:
        pdf="results/figures/fig_1.pdf",
        png=in_report("results/figures/fig_1.png", "Figures", figure="1", shows="the method"),
        facts="results/figures/fig_1.json",
    log:
        "results/logs/fig_1.log",
    benchmark:
        "results/benchmarks/fig_1.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        script="fig_1",
        files=files,
        cfg=as_json(**provenance(cfg, RUN, "meanflow.flow")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_1"),
    shell:
        "python -m workflow_scripts.{params.script} {params.files} --out {params.stem:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


# The torus: losses, one-step samples, angles, distances.
use rule fig_1 as fig_2 with:
    input:
        history=rules.torus.output.history,
        samples=rules.torus.output.samples,
        summary=rules.torus.output.summary,
    output:
        pdf="results/figures/fig_2.pdf",
        png=in_report("results/figures/fig_2.png", "Figures", figure="2", shows="the torus"),
        facts="results/figures/fig_2.json",
    log:
        "results/logs/fig_2.log",
    benchmark:
        "results/benchmarks/fig_2.tsv"
    params:
        script="fig_2",
        files=files,
        cfg=as_json(**provenance(cfg, RUN, "meanflow.toy")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_2"),


# Real and generated brains in three planes.
use rule fig_1 as fig_3 with:
    input:
        qc=rules.qc.output.out,
        samples=samples_of(RUN, 1, max(cfg.meanflow.samples.nfe)),
        pairs=rules.evaluate.output.nearest.format(run=RUN),
    output:
        pdf="results/figures/fig_3.pdf",
        png=in_report("results/figures/fig_3.png", "Figures", figure="3", shows="brains"),
        facts="results/figures/fig_3.json",
    log:
        "results/logs/fig_3.log",
    benchmark:
        "results/benchmarks/fig_3.tsv"
    params:
        script="fig_3",
        files=files,
        cfg=as_json(**provenance(cfg, RUN, "meanflow.flow", "meanflow.train")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_3"),


# Distance against the number of network evaluations, MeanFlow and Rectified Flow.
use rule fig_1 as fig_4 with:
    input:
        table=ablation_table("fig_4"),
        after=PUBLISHED or [],
    output:
        pdf="results/{part}figures/fig_4.pdf",
        png=in_report("results/{part}figures/fig_4.png", "Figures", figure="4", shows="network evaluations"),
        facts="results/{part}figures/fig_4.json",
    log:
        "results/logs/{part}fig_4.log",
    benchmark:
        "results/benchmarks/{part}fig_4.tsv"
    params:
        script="fig_4",
        files=files,
        cfg=as_json(**ARMS.values("rectified"), published=PUBLISHED),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_4"),


# The exponent of the loss: distance, similarity, and the front of both.
use rule fig_1 as fig_5 with:
    input:
        table=ablation_table("fig_5"),
        questions=rules.compare_arms.output.out,
    output:
        pdf="results/{part}figures/fig_5.pdf",
        png=in_report("results/{part}figures/fig_5.png", "Figures", figure="5", shows="exponent of the loss"),
        facts="results/{part}figures/fig_5.json",
    log:
        "results/logs/{part}fig_5.log",
    benchmark:
        "results/benchmarks/{part}fig_5.tsv"
    params:
        script="fig_5",
        files=files,
        cfg=as_json(**ARMS.values("lp")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_5"),


# x- against u-prediction: distances over seeds, and samples from the same noise.
use rule fig_1 as fig_6 with:
    input:
        table=ablation_table("fig_6"),
        samples=unless_partial(*PREDICTION_SAMPLES),
    output:
        pdf="results/{part}figures/fig_6.pdf",
        png=in_report("results/{part}figures/fig_6.png", "Figures", figure="6", shows="x- or u-prediction"),
        facts="results/{part}figures/fig_6.json",
    log:
        "results/logs/{part}fig_6.log",
    benchmark:
        "results/benchmarks/{part}fig_6.tsv"
    params:
        script="fig_6",
        files=lambda w, input, output: command_line(
            {"table": input.table, "samples": available(w, input.samples, PREDICTION_SAMPLES)}, output
        ),
        cfg=as_json(**ARMS.values("prediction", sampled_arms=[*ARMS.first_runs("prediction")])),
        times=lambda w: file_times(PREDICTION_SAMPLES) if w.part else "",
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_6"),


# FLAIR with lesion masks, real and generated.
use rule fig_1 as fig_7 with:
    input:
        pairs=rules.pairs.output.pairs,
        after=rules.pairs.output.volumes,
        samples=rules.sample_pairs.output.out.format(run=PAIR_RUN),
        lesions=rules.evaluate_pairs.output.lesions.format(run=PAIR_RUN),
        metrics=rules.evaluate_pairs.output.metrics.format(run=PAIR_RUN),
    output:
        pdf="results/figures/fig_7.pdf",
        png=in_report("results/figures/fig_7.png", "Figures", figure="7", shows="lesions"),
        facts="results/figures/fig_7.json",
    log:
        "results/logs/fig_7.log",
    benchmark:
        "results/benchmarks/fig_7.tsv"
    params:
        script="fig_7",
        files=files,
        cfg=lambda w: as_json(**provenance(cfg, RUN, "lesions")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_7"),


# Volumes of brain regions, real and generated.
use rule fig_1 as fig_8 with:
    input:
        volumes=rules.evaluate.output.regional.format(run=RUN),
    output:
        pdf="results/figures/fig_8.pdf",
        png=in_report("results/figures/fig_8.png", "Figures", figure="8", shows="regions"),
        facts="results/figures/fig_8.json",
    log:
        "results/logs/fig_8.log",
    benchmark:
        "results/benchmarks/fig_8.tsv"
    params:
        script="fig_8",
        files=files,
        cfg=as_json(**provenance(cfg, RUN, "evaluation")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_8"),


# Statistics of the latents: histograms, correlations, principal components, posterior widths.
use rule fig_1 as fig_latents with:
    input:
        stats=rules.latent_statistics.output.out,
        validation=rules.validate.output.out,
    output:
        pdf="results/figures/latents.pdf",
        png=in_report("results/figures/latents.png", "Figures", figure="latents", shows="latents"),
        facts="results/figures/latents.json",
    log:
        "results/logs/fig_latents.log",
    benchmark:
        "results/benchmarks/fig_latents.tsv"
    params:
        script="fig_latents",
        files=files,
        cfg=as_json(**provenance(cfg, RUN, "autoencoder", "latents")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_latents"),


# The training volumes nearest to generated ones, and membership inference.
use rule fig_1 as fig_privacy with:
    input:
        nearest=rules.evaluate.output.privacy.format(run=RUN),
        metrics=rules.evaluate.output.metrics.format(run=RUN),
        after=[rules.qc.output.out, *samples_of(RUN, 1)],
    output:
        pdf="results/figures/privacy.pdf",
        png=in_report("results/figures/privacy.png", "Figures", figure="privacy", shows="nearest training volumes"),
        facts="results/figures/privacy.json",
    log:
        "results/logs/fig_privacy.log",
    benchmark:
        "results/benchmarks/fig_privacy.tsv"
    params:
        script="fig_privacy",
        files=files,
        cfg=as_json(**provenance(cfg, RUN), n_pairs=3),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_privacy"),


# Diagnostics of a training: raw losses, their ratio, the derivative, one-step samples, alarms.
use rule fig_1 as dashboard with:
    input:
        history=rules.train.output.history,
        diagnostics=rules.train.output.diagnostics,
    output:
        pdf="results/figures/dashboard-{run}.pdf",
        png=in_report("results/figures/dashboard-{run}.png", "Training", figure="dashboard", shows="{run}"),
        facts="results/figures/dashboard-{run}.json",
    log:
        "results/logs/dashboard/{run}.log",
    benchmark:
        "results/benchmarks/dashboard/{run}.tsv"
    params:
        script="dashboard",
        files=files,
        cfg=as_json(**provenance(cfg, RUN, "meanflow.flow", "meanflow.train")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.dashboard"),


rule figures:
    """Target: every figure, and table 1."""
    input:
        expand("results/figures/fig_{n}.pdf", n=[1, 2, 3, 8]),
        rules.contact_sheet.output.pdf,
        rules.fig_latents.output.pdf,
        rules.fig_privacy.output.pdf,
        rules.dashboard.output.pdf.format(run=RUN),
        "results/tables/table_1.tex",
    localrule: True
