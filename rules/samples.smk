"""Volumes from noise."""


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
