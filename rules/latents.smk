"""Volumes through the frozen encoder, once; statistics over training people."""


rule encode:
    """Posterior moments of one shard of the volumes; training scans also mirrored and augmented."""
    input:
        folder=rules.prepare.output.folder,
        weights=rules.vae.output.weights,
        gate=ancient("results/gates/phase_0.json"),
    output:
        latents="results/latents/{shard}.pt",
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
        cfg=encode_values(),
        code=code_digest("workflow_scripts.encode"),
    shell:
        "python -m workflow_scripts.encode --gate {input.gate:q} --folder {input.folder:q}"
        " --weights {input.weights:q} --config {params.cfg:q} --out {output.latents:q}"
        " 2>&1 | tee {log:q}"


rule stats:
    """Statistics of the training latents, what held-out ones decode to, and what a flip of latents would cost."""
    input:
        latents=expand(rules.encode.output.latents, shard=SHARDS),
        qc=rules.qc.output.table,
        weights=rules.vae.output.weights,
    output:
        stats="results/latents/stats.json",
    log:
        "results/logs/stats.log",
    benchmark:
        "results/benchmarks/stats.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=values(cfg.latents, "n_validated", "precision"),
        code=code_digest("workflow_scripts.stats"),
    shell:
        "python -m workflow_scripts.stats --latents {input.latents:q} --qc {input.qc:q}"
        " --weights {input.weights:q} --config {params.cfg:q} --out {output.stats:q}"
        " 2>&1 | tee {log:q}"


rule latents:
    """The look of the latents: histograms, correlations, principal components, posterior widths."""
    input:
        stats=rules.stats.output.stats,
        validation=rules.validate.output.report,
    output:
        pdf="results/figures/latents.pdf",
        png=in_report(
            "results/figures/latents.png", "Figures", figure="latents", shows="latents"
        ),
        facts="results/figures/latents.json",
    log:
        "results/logs/latents.log",
    benchmark:
        "results/benchmarks/latents.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=provenance("vae", "latents"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.latents"),
    shell:
        "python -m workflow_scripts.latents --stats {input.stats:q} --validation {input.validation:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"
