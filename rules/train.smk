"""MeanFlow on the latents of the training people."""


rule train:
    """Train one run; its weights, its history and diagnostics, and what made it."""
    input:
        latents=rules.stats.input.latents,
        stats=rules.stats.output.stats,
        qc=rules.qc.output.table,
        gate="results/gates/phase_3.json",
    output:
        model="results/runs/{run}/model.pt",
        history="results/runs/{run}/history.csv",
        diagnostics="results/runs/{run}/diagnostics.csv",
        card="results/runs/{run}/card.json",
    log:
        "results/logs/train/{run}.log",
    benchmark:
        "results/benchmarks/train/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 8
    resources:
        mem_mb=8000,
        runtime=720,
    params:
        cfg=run_values,
        code=code_digest("workflow_scripts.train"),
    shell:
        "python -m workflow_scripts.train --gate {input.gate:q} --latents {input.latents:q}"
        " --stats {input.stats:q} --qc {input.qc:q} --config {params.cfg:q} --code {params.code:q} --model {output.model:q}"
        " --history {output.history:q} --diagnostics {output.diagnostics:q} --card {output.card:q}"
        " 2>&1 | tee {log:q}"
