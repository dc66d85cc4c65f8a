"""The frozen autoencoder, its reconstructions, and the latents of all volumes."""


rule autoencoder:
    """Take stored weights, or train on the training participants, and freeze."""
    input:
        qc=rules.qc.output.out,
        after=rules.maisi.output.out if cfg.autoencoder.url else [],
    output:
        out="results/vae/vae.safetensors",
    log:
        "results/logs/autoencoder.log",
    benchmark:
        "results/benchmarks/autoencoder.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 8
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        files=files,
        cfg=as_json(**dump(cfg.autoencoder, leave=["url", "licence"]), seed=cfg.seed),
        code=code_digest("workflow_scripts.autoencoder"),
    shell:
        "python -m workflow_scripts.autoencoder {params.files} --config {params.cfg:q} --code {params.code:q}"
        " 2>&1 | tee {log:q}"


rule validate:
    """Reconstruct test volumes: similarity inside the brain and outside, posterior, architecture."""
    input:
        qc=rules.qc.output.out,
        weights=rules.autoencoder.output.out,
    output:
        out="results/vae/validation.json",
    log:
        "results/logs/validate.log",
    benchmark:
        "results/benchmarks/validate.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(n_validated=cfg.latents.n_validated),
        code=code_digest("workflow_scripts.validate"),
    shell:
        "python -m workflow_scripts.validate {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule pack:
    """Store the autoencoder in half precision, as the package ships it (see studies/sharp_vae.yaml)."""
    input:
        weights=rules.autoencoder.output.out,
    output:
        out="results/vae/packaged.safetensors",
    log:
        "results/logs/pack.log",
    benchmark:
        "results/benchmarks/pack.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=5,
    params:
        files=files,
        code=code_digest("workflow_scripts.pack"),
    shell:
        "python -m workflow_scripts.pack {params.files} 2>&1 | tee {log:q}"


rule encode:
    """Encode one shard of the volumes: posterior moments, of training scans also mirrored and augmented.

    Latents of test scans are a file of their own, which no training reads.
    """
    input:
        folder=rules.prepare.output.out,
        weights=rules.autoencoder.output.out,
        gate=ancient("results/gates/phase_0.json"),
    output:
        out="results/latents/{shard}.pt",
        test="results/latents/test/{shard}.pt",
    log:
        "results/logs/encode/{shard}.log",
    benchmark:
        "results/benchmarks/encode/{shard}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(**dump(cfg.latents, leave=["n_validated"]), seed=cfg.seed),
        code=code_digest("workflow_scripts.encode"),
    shell:
        "python -m workflow_scripts.encode {params.files} --config {params.cfg:q} --code {params.code:q}"
        " 2>&1 | tee {log:q}"


rule latent_statistics:
    """Statistics of the training latents, reconstructions of test latents, and the autoencoder's equivariance."""
    input:
        latents=expand(rules.encode.output, shard=SHARDS),
        qc=rules.qc.output.out,
        weights=rules.autoencoder.output.out,
    output:
        out="results/latents/stats.json",
    log:
        "results/logs/latent_statistics.log",
    benchmark:
        "results/benchmarks/latent_statistics.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(**dump(cfg.latents, "n_validated", "precision")),
        code=code_digest("workflow_scripts.latent_statistics"),
    shell:
        "python -m workflow_scripts.latent_statistics {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"
