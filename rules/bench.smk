"""What a training step costs here: not part of any study, made when asked for by name."""


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
