"""Scans to the grid and intensities of the study; what cannot be used is set aside with a reason."""


rule prepare:
    """Orient, resample, window and crop one shard of the scans."""
    input:
        participants=rules.cohort.output.participants,
    output:
        folder=directory("results/volumes/{shard}"),
    log:
        "results/logs/prepare/{shard}.log",
    benchmark:
        "results/benchmarks/prepare/{shard}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000 if cfg.volumes.strip == "none" else 16000,
        runtime=60 if cfg.volumes.strip == "none" else 600,
    params:
        cfg=as_json(n_shards=len(SHARDS), **cfg.volumes.model_dump(mode="json")),
        code=code_digest("workflow_scripts.prepare"),
    shell:
        "python -m workflow_scripts.prepare --participants {input.participants:q} --shard {wildcards.shard}"
        " --config {params.cfg:q} --out {output.folder:q}"
        " 2>&1 | tee {log:q}"


rule qc:
    """Gather what became of every scan: accepted, or set aside and why."""
    input:
        shards=expand(rules.prepare.output.folder, shard=SHARDS),
    output:
        table="results/cohort/qc.tsv",
    log:
        "results/logs/qc.log",
    benchmark:
        "results/benchmarks/qc.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code_digest("workflow_scripts.qc"),
    shell:
        "python -m workflow_scripts.qc --shards {input.shards:q} --out {output.table:q}"
        " 2>&1 | tee {log:q}"


rule contact:
    """Every scan at a glance, the odd ones first; nothing is made from it, since odd scans stay in."""
    input:
        qc=rules.qc.output.table,
    output:
        pdf="results/figures/contact.pdf",
        png=in_report(
            "results/figures/contact.png",
            "Cohort",
            figure="contact",
            shows="every scan",
        ),
        facts="results/figures/contact.json",
        table="results/cohort/contact.tsv",
    log:
        "results/logs/contact.log",
    benchmark:
        "results/benchmarks/contact.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=provenance("volumes"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.contact"),
    shell:
        "python -m workflow_scripts.contact --qc {input.qc:q} --config {params.cfg:q}"
        " --table {output.table:q} --out {params.stem:q} 2>&1 | tee {log:q}"
