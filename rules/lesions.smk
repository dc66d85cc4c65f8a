"""FLAIR and lesion masks: pairs, their latents, fine-tuning of the main run, generated pairs and their evaluation."""

from neuromf.workflow.listing import pairs_digest, pairs_source

# Settings of every fine-tuned run, and the run of every arm; the first run is that of figures and gates.
PAIR_RUNS, PAIR_ARMS = cfg.lesions.plan()
PAIR_RUN = next(iter(PAIR_RUNS))
ENCODINGS = ("vae", "distance", "downsample", "level")
# What fine-tuning takes over from the main run.
INHERITED = {
    "flow": ("times", "tangent", "derivative", "derivative_precision", "adaptive_power", "adaptive_c"),
    "train": ("weight_decay", "lr_end", "ema_images", "clip", "precision", "checkpoint_every"),
}


rule simulate_lesions:
    """Simulate participants with focal cortical dysplasia, scanned in FLAIR, and their masks, as a BIDS folder."""
    output:
        out=directory("results/fcd/phantom"),
    log:
        "results/logs/simulate_lesions.log",
    benchmark:
        "results/benchmarks/simulate_lesions.tsv"
    priority: 5  # as torus
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(**dump(cfg.lesions.simulated), **dump(cfg.cohort.embedded, leave=["n_participants", "seed"])),
        code=code_digest("workflow_scripts.simulate_lesions"),
    shell:
        "python -m workflow_scripts.simulate_lesions {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule pairs:
    """Prepare images and masks on the grid of the study, exclude unusable ones, and split participants."""
    input:
        after=rules.simulate_lesions.output.out if cfg.lesions.source == "simulated" else [],
    output:
        volumes=directory("results/fcd/volumes"),
        pairs="results/fcd/pairs.tsv",
        qc="results/fcd/qc.tsv",
    log:
        "results/logs/pairs.log",
    benchmark:
        "results/benchmarks/pairs.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000 if cfg.volumes.skull_strip == "none" else 16000,
        runtime=60 if cfg.volumes.skull_strip == "none" else 600,
    params:
        cfg=lambda w: as_json(
            **pairs_source(cfg.lesions), split=dump(cfg.lesions.split), volumes=dump(cfg.volumes), seed=cfg.seed
        ),
        digest=pairs_digest(cfg.lesions) if HAS_LESIONS and workflow.is_main_process else "",
        folder=subpath(output.pairs, parent=True),
        code=code_digest("workflow_scripts.pairs"),
    shell:
        "python -m workflow_scripts.pairs --volumes {output.volumes:q} --out {params.folder:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule pair_latents:
    """Latents of every pair, by mask encoding; training pairs also mirrored; Dice of encode-decode of masks."""
    input:
        pairs=rules.pairs.output.pairs,
        after=rules.pairs.output.volumes,
        weights=rules.autoencoder.output.out,
        gate=ancient("results/gates/phase_0.json"),
    output:
        after=expand("results/fcd/latents/{encoding}.npz", encoding=ENCODINGS),
        masks="results/fcd/masks.csv",
    log:
        "results/logs/pair_latents.log",
    benchmark:
        "results/benchmarks/pair_latents.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=120,
    params:
        files=files,
        cfg=as_json(
            n_augmented=cfg.lesions.n_augmented, seed=cfg.seed, **dump(cfg.latents, "augmentation", "precision")
        ),
        folder=subpath(output[0], parent=True),
        code=code_digest("workflow_scripts.pair_latents"),
    shell:
        "python -m workflow_scripts.pair_latents {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule choose_mask_encoding:
    """Choose how masks become latents, by the Dice of encode-decode."""
    input:
        masks=rules.pair_latents.output.masks,
    output:
        out="results/fcd/strategy.json",
    log:
        "results/logs/choose_mask_encoding.log",
    benchmark:
        "results/benchmarks/choose_mask_encoding.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=5,
    params:
        files=files,
        cfg=as_json(**dump(cfg.lesions, "mask_encoding", "min_vae_dice")),
        code=code_digest("workflow_scripts.choose_mask_encoding"),
    shell:
        "python -m workflow_scripts.choose_mask_encoding {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule finetune:
    """Fine-tune the main run on image-mask pairs; only adapters and added convolutions are trained."""
    input:
        model=rules.train.output.model.format(run=RUN),
        latents=rules.pair_latents.output.after,
        strategy=rules.choose_mask_encoding.output.out,
    output:
        adapter="results/fcd/runs/{run}/adapter.safetensors",
        gaussian="results/fcd/runs/{run}/gaussian.safetensors",
        history="results/fcd/runs/{run}/history.csv",
        card="results/fcd/runs/{run}/card.json",
    log:
        "results/logs/finetune/{run}.log",
    benchmark:
        "results/benchmarks/finetune/{run}.tsv"
    priority: 5  # a chain of long jobs: shorter ones fit beside it
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=8000,
        runtime=720,
    params:
        files=files,
        cfg=lambda w: as_json(
            flow=dump(cfg.meanflow.flow, *INHERITED["flow"]),
            train=dump(cfg.meanflow.train, *INHERITED["train"]),
            **PAIR_RUNS[w.run].model_dump(mode="json"),
        ),
        code=code_digest("workflow_scripts.finetune"),
    shell:
        "python -m workflow_scripts.finetune {params.files} --config {params.cfg:q} --code {params.code:q}"
        " 2>&1 | tee {log:q}"


rule sample_pairs:
    """Draw image-mask pairs, one network evaluation each."""
    input:
        model=rules.train.output.model.format(run=RUN),
        adapter=rules.finetune.output.adapter,
        gaussian=rules.finetune.output.gaussian,
        weights=rules.autoencoder.output.out,
        pairs=rules.pairs.output.pairs,
    output:
        out=directory("results/fcd/samples/{run}"),
    log:
        "results/logs/sample_pairs/{run}.log",
    benchmark:
        "results/benchmarks/sample_pairs/{run}.tsv"
    priority: 5  # as finetune
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(
            spacing_mm=cfg.volumes.spacing_mm,
            **dump(cfg.lesions, "n_samples", "mask_threshold"),
            **dump(cfg.meanflow.samples, "seed", "batch"),
        ),
        code=code_digest("workflow_scripts.sample_pairs"),
    shell:
        "python -m workflow_scripts.sample_pairs {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule evaluate_pairs:
    """Evaluate generated images, masks and their agreement beside real test pairs."""
    input:
        samples=rules.sample_pairs.output.out,
        pairs=rules.pairs.output.pairs,
        after=rules.pairs.output.volumes,
        weights=rules.autoencoder.output.out,
    output:
        metrics="results/fcd/metrics/{run}.csv",
        lesions="results/fcd/lesions/{run}.csv",
    log:
        "results/logs/evaluate_pairs/{run}.log",
    benchmark:
        "results/benchmarks/evaluate_pairs/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(**{name: EVALUATION[name] for name in ("features", "spacing_mm", "seed", "n_boot")}),
        code=code_digest("workflow_scripts.evaluate_pairs"),
    shell:
        "python -m workflow_scripts.evaluate_pairs {params.files} --arm {wildcards.run} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule segmentation:
    """Train a small segmentation network with and without generated pairs, and test it on real lesions."""
    input:
        samples=rules.sample_pairs.output.out.format(run=PAIR_RUN),
        pairs=rules.pairs.output.pairs,
        after=rules.pairs.output.volumes,
    output:
        out="results/fcd/segmentation.csv",
    log:
        "results/logs/segmentation.log",
    benchmark:
        "results/benchmarks/segmentation.tsv"
    priority: 5  # as finetune
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        files=files,
        cfg=as_json(segmentation_steps=cfg.lesions.segmentation_steps, seeds=[cfg.seed, cfg.seed + 1]),
        arm=PAIR_RUN,
        code=code_digest("workflow_scripts.segmentation"),
    shell:
        "python -m workflow_scripts.segmentation {params.files} --arm {params.arm:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule lesions:
    """Target: everything about lesions, if the study has them."""
    input:
        ["results/figures/fig_7.pdf", "results/tables/table_4.tex"] if HAS_LESIONS else [],
        rules.segmentation.output.out if HAS_LESIONS and cfg.lesions.segmentation_steps else [],
    localrule: True
