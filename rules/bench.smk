"""What things cost here. Generation is part of a study; the rest is made when asked for by name."""


rule bench:
    """Time and peak memory of a step, flow matching beside every way to compute the derivative."""
    output:
        table="results/bench/step.csv",
    log:
        "results/logs/bench.log",
    benchmark:
        "results/benchmarks/bench.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=60,
    params:
        cfg=bench_values(),
        code=code_digest("workflow_scripts.bench"),
    shell:
        "python -m workflow_scripts.bench --config {params.cfg:q} --out {output.table:q} 2>&1 | tee {log:q}"


rule bench_store:
    """Time of a step whose latents are read from 20 GB on disk, beside one that has them in memory."""
    output:
        table="results/bench/store.csv",
    log:
        "results/logs/bench_store.log",
    benchmark:
        "results/benchmarks/bench_store.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 8
    resources:
        mem_mb=8000,
        disk_mb=22000,
        runtime=60,
    params:
        cfg=bench_values(gigabytes=20),
        code=code_digest("workflow_scripts.bench_store"),
    shell:
        "python -m workflow_scripts.bench_store --config {params.cfg:q} --out {output.table:q} 2>&1 | tee {log:q}"


rule bench_vae:
    """Time, memory and error of encoding and decoding at 128^3: MONAI's autoencoder as documented, and ours."""
    output:
        table="results/bench/vae.csv",
    log:
        "results/logs/bench_vae.log",
    benchmark:
        "results/benchmarks/bench_vae.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        cfg=as_json(side=128, rounds=3),
        code=code_digest("workflow_scripts.bench_vae"),
    shell:
        "python -m workflow_scripts.bench_vae --config {params.cfg:q} --out {output.table:q} 2>&1 | tee {log:q}"


rule timing:
    """Seconds per volume, network and decoder apart, warm, at batch 1 and the best batch."""
    input:
        model=rules.train.output.model,
        weights=rules.vae.output.weights,
    output:
        table="results/bench/generation-{run}.csv",
    log:
        "results/logs/timing/{run}.log",
    benchmark:
        "results/benchmarks/timing/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 8
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        cfg=timing_values,
        code=code_digest("workflow_scripts.timing"),
    shell:
        "python -m workflow_scripts.timing --model {input.model:q} --weights {input.weights:q}"
        " --run {wildcards.run} --config {params.cfg:q} --out {output.table:q} 2>&1 | tee {log:q}"


rule scale:
    """What a study of many scans would take, from what this one took; made when asked for by name."""
    input:
        qc=rules.qc.output.table,
        volumes=rules.qc.input.shards,
        latents=rules.stats.input.latents,
        card=rules.train.output.card.format(run=RUN),
        samples=expand(
            rules.sample.output.folder, run=RUN, steps=cfg.samples.evaluations
        ),
        metrics=rules.measure.output.metrics.format(run=RUN),
    output:
        table="results/bench/scale.csv",
        page="results/scale.md",
    log:
        "results/logs/scale.log",
    benchmark:
        "results/benchmarks/scale.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cfg=scale_values(),
        benchmarks="results/benchmarks",
        code=code_digest("workflow_scripts.scale"),
    shell:
        "python -m workflow_scripts.scale --benchmarks {params.benchmarks:q} --qc {input.qc:q} --volumes {input.volumes:q}"
        " --latents {input.latents:q} --card {input.card:q} --samples {input.samples:q} --config {params.cfg:q}"
        " --table {output.table:q} --page {output.page:q} 2>&1 | tee {log:q}"
