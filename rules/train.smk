"""MeanFlow on the latents of the training people."""


rule train:
    """Train one run; its weights, its history and diagnostics, and what made it."""
    input:
        latents=rules.stats.input.latents,
        stats=rules.stats.output.stats,
        qc=rules.qc.output.table,
        gate=ancient("results/gates/phase_3.json"),
    output:
        model="results/runs/{run}/model.pt",
        history="results/runs/{run}/history.csv",
        diagnostics="results/runs/{run}/diagnostics.csv",
        card="results/runs/{run}/card.json",
    log:
        "results/logs/train/{run}.log",
    benchmark:
        "results/benchmarks/train/{run}.tsv"
    priority: 10  # most of a study waits for one of them
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=8000,  # latents that need more than half of it stay on disk
        runtime=720,
        gpu=0,  # of all nodes; 0 is the machine's own, or its CPU
        nodes=1,
        launch="",  # srun, where there are several nodes
    params:
        cfg=run_values,
        code=code_digest("workflow_scripts.train"),
    shell:
        "{resources.launch} python -m workflow_scripts.train --gpus {resources.gpu} --nodes {resources.nodes}"
        " --memory_mb {resources.mem_mb} --gate {input.gate:q} --latents {input.latents:q}"
        " --stats {input.stats:q} --qc {input.qc:q} --config {params.cfg:q} --code {params.code:q} --model {output.model:q}"
        " --history {output.history:q} --diagnostics {output.diagnostics:q} --card {output.card:q}"
        " 2>&1 | tee {log:q}"
