"""Benchmarks. The cost of generation is part of a study; the others run when they are asked for by name."""

# Config sections of a run that its memory depends on.
SECTIONS = ("net", "flow", "train", "samples")


rule bench:
    """Seconds and peak memory of a training step, flow matching and every form of the derivative."""
    output:
        out="results/bench/step.csv",
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
        script="bench",
        files=files,
        cfg=step_settings(),
        code=code_digest("workflow_scripts.bench"),
    shell:
        "python -m workflow_scripts.{params.script} {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


# A training step with 20 GB of memory-mapped latents, relative to one with latents in memory.
use rule bench as bench_store with:
    output:
        out="results/bench/store.csv",
    log:
        "results/logs/bench_store.log",
    benchmark:
        "results/benchmarks/bench_store.tsv"
    resources:
        mem_mb=8000,
        disk_mb=22000,
        runtime=60,
    params:
        script="bench_store",
        files=files,
        cfg=step_settings(gigabytes=20),
        code=code_digest("workflow_scripts.bench_store"),


# Encoding and decoding at 128^3: MONAI's autoencoder as documented, and ours.
use rule bench as bench_vae with:
    output:
        out="results/bench/vae.csv",
    log:
        "results/logs/bench_vae.log",
    benchmark:
        "results/benchmarks/bench_vae.tsv"
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        script="bench_vae",
        files=files,
        cfg=as_json(side=128, rounds=3),
        code=code_digest("workflow_scripts.bench_vae"),


# A training step of the growth system: module against plain loop, bfloat16 against float32.
use rule bench as bench_growth with:
    output:
        out="results/bench/growth.csv",
    log:
        "results/logs/bench_growth.log",
    benchmark:
        "results/benchmarks/bench_growth.tsv"
    threads: half_the_cores()
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        script="bench_growth",
        files=files,
        cfg=as_json(side=32, batch=16, width=8, z_dim=32),
        code=code_digest("workflow_scripts.bench_growth"),


# GPU memory of every job in two accounts, and hours of every job, before anything runs and without a GPU.
use rule bench as memory with:
    output:
        table="results/bench/memory.csv",
        page="results/memory.md",
    log:
        "results/logs/memory.log",
    benchmark:
        "results/benchmarks/memory.tsv"
    threads: 1
    resources:
        mem_mb=12000,
        runtime=120,
    params:
        script="memory",
        files=files,
        cfg=as_json(
            study=cfg.study,
            main=RUN,
            runs={name: dump(run, *SECTIONS) for name, run in ARMS.runs.items()},
            pairs={
                **dump(cfg.lesions, "adapter", "finetune"),
                # The number of simulated cases stands for that of your own.
                "n": round(cfg.lesions.simulated.n_participants * cfg.lesions.split.train)
                * (1 + cfg.lesions.n_augmented),
            },
            shape=cfg.volumes.shape,
            **dump(cfg.autoencoder, "architecture", "num_splits"),
            **dump(cfg.latents, "precision"),
            scans=SCANS.n * (1 + cfg.latents.mirror + cfg.latents.n_augmented),
        ),
        code=code_digest("workflow_scripts.memory"),


rule timing:
    """Seconds per generated volume, network and decoder apart, warm, at batch 1 and at the best batch."""
    input:
        model=rules.train.output.model,
        weights=rules.autoencoder.output.out,
    output:
        out="results/bench/generation-{run}.csv",
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
        files=files,
        cfg=lambda w: as_json(
            nfe=sorted({1, max(ARMS.runs[w.run].samples.nfe)}),
            memory_mb=7000,
            **dump(ARMS.runs[w.run].samples, "sampler", "precision", "timed_seconds"),
        ),
        code=code_digest("workflow_scripts.timing"),
    shell:
        "python -m workflow_scripts.timing {params.files} --run {wildcards.run} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule projection:
    """Project the costs of a larger study from the benchmarks of this one."""
    input:
        qc=rules.qc.output.out,
        volumes=rules.qc.input.shards,
        latents=rules.latent_statistics.input.latents,
        card=rules.train.output.card.format(run=RUN),
        samples=samples_of(RUN),
        after=rules.evaluate.output.metrics.format(run=RUN),
    output:
        table="results/bench/scale.csv",
        page="results/scale.md",
    log:
        "results/logs/projection.log",
    benchmark:
        "results/benchmarks/projection.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        files=files,
        cfg=as_json(
            **dump(cfg.projection),
            study=cfg.study,
            shape=cfg.volumes.shape,
            scans_per_shard=cfg.cohort.scans_per_shard,
            versions=1 + cfg.latents.mirror + cfg.latents.n_augmented,
        ),
        benchmarks="results/benchmarks",
        code=code_digest("workflow_scripts.projection"),
    shell:
        "python -m workflow_scripts.projection {params.files} --benchmarks {params.benchmarks:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"
