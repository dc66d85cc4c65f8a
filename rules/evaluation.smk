"""Metrics: the reference of real participants, once; every run against it; one table of all."""

from neuromf.workflow.params import evaluation_settings

EVALUATION = evaluation_settings(cfg)


rule reference:
    """Features, images and regions of real participants, and the floors and ceilings of every metric."""
    input:
        latents=rules.latent_statistics.input.latents,
        qc=rules.qc.output.out,
        weights=rules.autoencoder.output.out,
    output:
        real_features="results/metrics/people.npz",
        table="results/metrics/reference.csv",
        spectra="results/metrics/reference_spectra.csv",
        regions="results/metrics/reference_regions.csv",
    log:
        "results/logs/reference.log",
    benchmark:
        "results/benchmarks/reference.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        files=files,
        cfg=as_json(**EVALUATION),
        code=code_digest("workflow_scripts.reference"),
    shell:
        "python -m workflow_scripts.reference {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule evaluate:
    """Every metric of one run at every number of network evaluations."""
    input:
        samples=lambda w: samples_of(w.run),
        model=rules.train.output.model,
        real_features=rules.reference.output.real_features,
        regions=rules.reference.output.regions,
        qc=rules.qc.output.out,
        weights=rules.autoencoder.output.out,
    output:
        metrics="results/runs/{run}/metrics.csv",
        spectra="results/runs/{run}/spectra.csv",
        nearest="results/runs/{run}/nearest.csv",
        regional="results/runs/{run}/regions.csv",
        privacy="results/runs/{run}/privacy.csv",
    log:
        "results/logs/evaluate/{run}.log",
    benchmark:
        "results/benchmarks/evaluate/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: lambda w: 2 if w.run == RUN else 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        files=files,
        cfg=lambda w: as_json(
            sampler=ARMS.runs[w.run].samples.sampler,
            n=ARMS.runs[w.run].samples.n,
            in_depth=w.run == RUN or cfg.evaluation.arms == "all",
            **EVALUATION,
        ),
        code=code_digest("workflow_scripts.evaluate"),
    shell:
        "python -m workflow_scripts.evaluate {params.files} --run {wildcards.run} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule merge_metrics:
    """All metrics of all runs in one table: run, set, nfe, metric, features, n, value, low, high."""
    input:
        tables=[rules.reference.output.table, *expand(rules.evaluate.output.metrics, run=ARMS.runs)],
    output:
        out="results/metrics/metrics.csv",
    log:
        "results/logs/merge_metrics.log",
    benchmark:
        "results/benchmarks/merge_metrics.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        files=files,
        code=code_digest("workflow_scripts.merge_metrics"),
    shell:
        "python -m workflow_scripts.merge_metrics {params.files} 2>&1 | tee {log:q}"


rule posterior:
    """Posterior error of test participants, of the network and of its prior, with paired intervals."""
    input:
        model=rules.train.output.model,
        latents=rules.latent_statistics.input.latents,
        qc=rules.qc.output.out,
    output:
        out="results/runs/{run}/posterior.csv",
    log:
        "results/logs/posterior/{run}.log",
    benchmark:
        "results/benchmarks/posterior/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(n_boot=cfg.evaluation.n_boot, seed=cfg.seed),
        code=code_digest("workflow_scripts.posterior"),
    shell:
        "python -m workflow_scripts.posterior {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"
