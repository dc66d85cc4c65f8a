"""The toy manifold with known answers: does one evaluation land on it?"""


rule torus:
    """Train on the torus and draw one-step and several-step samples."""
    output:
        history="results/toy/history.csv",
        samples="results/toy/samples.csv",
        summary="results/toy/summary.csv",
    log:
        "results/logs/torus.log",
    benchmark:
        "results/benchmarks/torus.tsv"
    priority: 5  # long, and waits for nothing: others fit beside it
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=values(cfg.torus),
        code=code_digest("workflow_scripts.torus"),
    shell:
        "python -m workflow_scripts.torus --config {params.cfg:q} --history {output.history:q}"
        " --samples {output.samples:q} --summary {output.summary:q}"
        " 2>&1 | tee {log:q}"
