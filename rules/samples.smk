"""Volumes from noise, and how far they are from real ones."""


rule sample:
    """Draw volumes from one trained run with a given number of network evaluations."""
    input:
        model=rules.train.output.model,
        weights=rules.vae.output.weights,
        qc=rules.qc.output.table,
    output:
        folder=directory("results/samples/{run}/nfe-{steps}"),
    log:
        "results/logs/sample/{run}-{steps}.log",
    benchmark:
        "results/benchmarks/sample/{run}-{steps}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=sample_values,
        code=code_digest("workflow_scripts.sample"),
    shell:
        "python -m workflow_scripts.sample --model {input.model:q} --weights {input.weights:q}"
        " --steps {wildcards.steps} --config {params.cfg:q} --out {output.folder:q}"
        " 2>&1 | tee {log:q}"


rule measure:
    """Every metric of one run at every number of evaluations, with real people beside it."""
    input:
        samples=expand(
            rules.sample.output.folder,
            steps=cfg.samples.evaluations,
            allow_missing=True,
        ),
        model=rules.train.output.model,
        latents=rules.stats.input.latents,
        qc=rules.qc.output.table,
        weights=rules.vae.output.weights,
    output:
        metrics="results/runs/{run}/metrics.csv",
        spectra="results/runs/{run}/spectra.csv",
    log:
        "results/logs/measure/{run}.log",
    benchmark:
        "results/benchmarks/measure/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        cfg=measure_values,
        code=code_digest("workflow_scripts.measure"),
    shell:
        "python -m workflow_scripts.measure --samples {input.samples:q} --model {input.model:q}"
        " --latents {input.latents:q} --qc {input.qc:q} --weights {input.weights:q} --run {wildcards.run}"
        " --config {params.cfg:q} --metrics {output.metrics:q} --spectra {output.spectra:q}"
        " 2>&1 | tee {log:q}"


rule metrics:
    """All metrics of all runs in one tidy table: run, nfe, metric, features, n, value, low, high."""
    input:
        runs=expand(rules.measure.output.metrics, run=RUNS),
    output:
        table="results/metrics/metrics.csv",
    log:
        "results/logs/metrics.log",
    benchmark:
        "results/benchmarks/metrics.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        code=code_digest("workflow_scripts.metrics"),
    shell:
        "python -m workflow_scripts.metrics --runs {input.runs:q} --out {output.table:q} 2>&1 | tee {log:q}"
