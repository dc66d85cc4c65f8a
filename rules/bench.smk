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
