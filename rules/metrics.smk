"""How far volumes are from real ones: what is known of real people, once; every run against it; one table."""


rule reference:
    """Features, images and regions of real people, and the floors and ceilings of every metric."""
    input:
        latents=rules.stats.input.latents,
        qc=rules.qc.output.table,
        weights=rules.vae.output.weights,
    output:
        people="results/metrics/people.npz",
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
        cfg=lambda w: reference_values(),
        code=code_digest("workflow_scripts.reference"),
    shell:
        "python -m workflow_scripts.reference --latents {input.latents:q} --qc {input.qc:q}"
        " --weights {input.weights:q} --config {params.cfg:q} --people {output.people:q}"
        " --table {output.table:q} --spectra {output.spectra:q} --regions {output.regions:q}"
        " 2>&1 | tee {log:q}"


rule measure:
    """Every metric of one run at every number of evaluations."""
    input:
        samples=samples_of,
        model=rules.train.output.model,
        people=rules.reference.output.people,
        regions=rules.reference.output.regions,
        qc=rules.qc.output.table,
        weights=rules.vae.output.weights,
    output:
        metrics="results/runs/{run}/metrics.csv",
        spectra="results/runs/{run}/spectra.csv",
        nearest="results/runs/{run}/nearest.csv",
        regional="results/runs/{run}/regions.csv",
    log:
        "results/logs/measure/{run}.log",
    benchmark:
        "results/benchmarks/measure/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: lambda w: 2 if w.run == RUN else 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        cfg=measure_values,
        code=code_digest("workflow_scripts.measure"),
    shell:
        "python -m workflow_scripts.measure --samples {input.samples:q} --model {input.model:q}"
        " --people {input.people:q} --regions {input.regions:q} --qc {input.qc:q}"
        " --weights {input.weights:q} --run {wildcards.run} --config {params.cfg:q}"
        " --metrics {output.metrics:q} --spectra {output.spectra:q} --nearest {output.nearest:q}"
        " --regional {output.regional:q} 2>&1 | tee {log:q}"


rule metrics:
    """All metrics of all runs in one tidy table: run, nfe, metric, features, n, value, low, high."""
    input:
        tables=[
            rules.reference.output.table,
            *expand(rules.measure.output.metrics, run=RUNS),
        ],
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
        "python -m workflow_scripts.metrics --tables {input.tables:q} --out {output.table:q} 2>&1 | tee {log:q}"
