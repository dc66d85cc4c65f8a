"""The frozen autoencoder: published weights, the packaged compact one, or trained on training people."""


rule vae:
    """Take stored weights, or train on the study's training people, and freeze."""
    input:
        qc=rules.qc.output.table,
        fetched=rules.maisi.output.weights if cfg.vae.url else [],
    output:
        weights="results/vae/vae.safetensors",
    log:
        "results/logs/vae.log",
    benchmark:
        "results/benchmarks/vae.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 8
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        cfg=vae_values(),
        code=code_digest("workflow_scripts.vae"),
    shell:
        "python -m workflow_scripts.vae --qc {input.qc:q} --config {params.cfg:q} --code {params.code:q}"
        " --out {output.weights:q}"
        " 2>&1 | tee {log:q}"


rule validate:
    """Round trip of held-out volumes: similarity inside the head and outside, posterior, architecture."""
    input:
        qc=rules.qc.output.table,
        weights=rules.vae.output.weights,
    output:
        report="results/vae/validation.json",
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
        cfg=validate_values(),
        code=code_digest("workflow_scripts.validate"),
    shell:
        "python -m workflow_scripts.validate --qc {input.qc:q} --weights {input.weights:q}"
        " --config {params.cfg:q} --out {output.report:q}"
        " 2>&1 | tee {log:q}"


rule pack:
    """Store the autoencoder in half precision, as the package ships it (see studies/compact_vae.yaml)."""
    input:
        weights=rules.vae.output.weights,
    output:
        weights="results/vae/packaged.safetensors",
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
        code=code_digest("workflow_scripts.pack"),
    shell:
        "python -m workflow_scripts.pack --weights {input.weights:q} --out {output.weights:q} 2>&1 | tee {log:q}"
