"""MeanFlow: the toy torus, training on the latents of training participants, samples."""


rule torus:
    """Train on the torus, whose distribution is known, and draw one-step and several-step samples."""
    output:
        history="results/toy/history.csv",
        samples="results/toy/samples.csv",
        summary="results/toy/summary.csv",
    log:
        "results/logs/torus.log",
    benchmark:
        "results/benchmarks/torus.tsv"
    priority: 5  # long and without inputs: shorter jobs fit beside it
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(**dump(cfg.meanflow.toy)),
        code=code_digest("workflow_scripts.torus"),
    shell:
        "python -m workflow_scripts.torus {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule train:
    """Train one run: weights, history, diagnostics, and a card with its provenance."""
    input:
        latents=expand(rules.encode.output.out, shard=SHARDS),  # not those of test scans
        stats=rules.latent_statistics.output.out,
        qc=rules.qc.output.out,
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
    priority: 10  # most of a study waits for a training
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=8000,  # latents above half of it stay on disk
        runtime=720,
        gpu=0,  # of all nodes; 0: the machine's own GPU, or its CPU
        nodes=1,
        launch="",  # srun on several nodes
    params:
        files=files,
        cfg=lambda w: as_json(**dump(ARMS.runs[w.run], "net", "flow", "train")),
        code=code_digest("workflow_scripts.train"),
    shell:
        "{resources.launch} python -m workflow_scripts.train {params.files} --gpus {resources.gpu}"
        " --nodes {resources.nodes} --memory_mb {resources.mem_mb} --config {params.cfg:q} --code {params.code:q}"
        " 2>&1 | tee {log:q}"


rule pack_run:
    """Store the averaged network, prior and statistics in half precision, as the package ships them."""
    input:
        model=rules.train.output.model,
    output:
        out="results/runs/{run}/packaged.safetensors",
    log:
        "results/logs/pack_run/{run}.log",
    benchmark:
        "results/benchmarks/pack_run/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=5,
    params:
        files=files,
        cfg=as_json(spacing_mm=cfg.volumes.spacing_mm),
        code=code_digest("workflow_scripts.pack_run"),
    shell:
        "python -m workflow_scripts.pack_run {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule sample:
    """Draw volumes from one run with a given number of network evaluations."""
    input:
        model=rules.train.output.model,
        weights=rules.autoencoder.output.out,
        after=rules.qc.output.out,
    output:
        out=directory("results/samples/{run}/nfe-{nfe}"),
    log:
        "results/logs/sample/{run}-{nfe}.log",
    benchmark:
        "results/benchmarks/sample/{run}-{nfe}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=lambda w: as_json(
            spacing_mm=cfg.volumes.spacing_mm,
            **dump(ARMS.runs[w.run].samples, leave=["nfe", "timed_seconds"]),
        ),
        code=code_digest("workflow_scripts.sample"),
    shell:
        "python -m workflow_scripts.sample {params.files} --nfe {wildcards.nfe} --config {params.cfg:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"
