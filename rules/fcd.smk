"""FLAIR with lesion masks, from people of this study's own or anyone's cases; none of it where fcd.source is none."""


rule lesions:
    """Make people with focal cortical dysplasia, scanned in FLAIR, and their true masks, as a BIDS folder."""
    output:
        folder=directory("results/fcd/phantom"),
    log:
        "results/logs/lesions.log",
    benchmark:
        "results/benchmarks/lesions.tsv"
    priority: 5  # as torus
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        cfg=lesions_values(),
        code=code_digest("workflow_scripts.lesions"),
    shell:
        "python -m workflow_scripts.lesions --config {params.cfg:q} --out {output.folder:q} 2>&1 | tee {log:q}"


rule pairs:
    """Bring images and masks to the grid of the study, set aside what cannot be used, and share out the people."""
    input:
        made=pairs_inputs(),
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
        mem_mb=4000 if cfg.volumes.strip == "none" else 16000,
        runtime=60 if cfg.volumes.strip == "none" else 600,
    params:
        cfg=lambda w: pairs_values(),
        files=pairs_files(),
        folder=subpath(output.pairs, parent=True),
        code=code_digest("workflow_scripts.pairs"),
    shell:
        "python -m workflow_scripts.pairs --config {params.cfg:q} --volumes {output.volumes:q}"
        " --out {params.folder:q} 2>&1 | tee {log:q}"


rule pair_latents:
    """Joint latents of every pair, by mask strategy; training pairs also mirrored; how well masks come back."""
    input:
        pairs=rules.pairs.output.pairs,
        volumes=rules.pairs.output.volumes,
        weights=rules.vae.output.weights,
        gate=ancient("results/gates/phase_0.json"),
    output:
        latents=expand("results/fcd/latents/{strategy}.npz", strategy=STRATEGIES),
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
        cfg=pair_latents_values(),
        folder=subpath(output[0], parent=True),
        code=code_digest("workflow_scripts.pair_latents"),
    shell:
        "python -m workflow_scripts.pair_latents --gate {input.gate:q} --pairs {input.pairs:q}"
        " --weights {input.weights:q} --config {params.cfg:q} --masks {output.masks:q}"
        " --out {params.folder:q} 2>&1 | tee {log:q}"


rule strategy:
    """How a mask becomes part of a latent: decided by the Dice of masks there and back."""
    input:
        masks=rules.pair_latents.output.masks,
    output:
        strategy="results/fcd/strategy.json",
    log:
        "results/logs/strategy.log",
    benchmark:
        "results/benchmarks/strategy.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=5,
    params:
        cfg=as_json(chosen=cfg.fcd.strategy, bound=cfg.fcd.dice),
        code=code_digest("workflow_scripts.strategy"),
    shell:
        "python -m workflow_scripts.strategy --masks {input.masks:q} --config {params.cfg:q}"
        " --out {output.strategy:q} 2>&1 | tee {log:q}"
