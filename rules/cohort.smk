"""Scans and participants: simulated or listed, split by participant, prepared on the grid of the study."""


rule simulate_participants:
    """Simulate one shard of the embedded cohort: participants deformed from MNI152, scanned, written as NIfTI."""
    output:
        out=directory("results/phantom/{shard}"),
    log:
        "results/logs/simulate_participants/{shard}.log",
    benchmark:
        "results/benchmarks/simulate_participants/{shard}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(n_shards=len(SHARDS), **dump(cfg.cohort.embedded)),
        code=code_digest("workflow_scripts.simulate_participants"),
    shell:
        "python -m workflow_scripts.simulate_participants {params.files} --shard {wildcards.shard} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule cohort:
    """List the scans of the study with participants, sites and splits."""
    input:
        after=cohort_inputs(),
    output:
        out="results/cohort/participants.tsv",
    log:
        "results/logs/cohort.log",
    benchmark:
        "results/benchmarks/cohort.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=files,
        # A function, since templates such as {scan} in the config are no wildcards.
        cfg=lambda w: as_json(cohort={**cohort_source(), "split": dump(cfg.cohort.split)}, seed=cfg.seed),
        scans=SCANS.digest,
        code=code_digest("workflow_scripts.cohort"),
    shell:
        "python -m workflow_scripts.cohort {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule prepare:
    """Orient, resample, rescale and crop one shard of the scans."""
    input:
        participants=rules.cohort.output.out,
    output:
        out=directory("results/volumes/{shard}"),
    log:
        "results/logs/prepare/{shard}.log",
    benchmark:
        "results/benchmarks/prepare/{shard}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000 if cfg.volumes.skull_strip == "none" else 16000,
        runtime=60 if cfg.volumes.skull_strip == "none" else 600,
    params:
        files=files,
        cfg=as_json(volumes=dump(cfg.volumes), n_shards=len(SHARDS)),
        scans=lambda w: shard_digest(cfg.cohort, SCANS, int(w.shard), len(SHARDS)),
        code=code_digest("workflow_scripts.prepare"),
    shell:
        "python -m workflow_scripts.prepare {params.files} --shard {wildcards.shard} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule qc:
    """Merge the reports of all scans: accepted, or excluded with the reason."""
    input:
        shards=expand(rules.prepare.output.out, shard=SHARDS),
    output:
        out="results/cohort/qc.tsv",
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
        files=files,
        code=code_digest("workflow_scripts.qc"),
    shell:
        "python -m workflow_scripts.qc {params.files} 2>&1 | tee {log:q}"


rule contact_sheet:
    """Draw every scan, outliers first. No later stage reads it: outliers stay in the study."""
    input:
        qc=rules.qc.output.out,
    output:
        pdf="results/figures/contact.pdf",
        png=in_report("results/figures/contact.png", "Cohort", figure="contact", shows="every scan"),
        facts="results/figures/contact.json",
        table="results/cohort/contact.tsv",
    log:
        "results/logs/contact_sheet.log",
    benchmark:
        "results/benchmarks/contact_sheet.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(**provenance(cfg, RUN, "volumes")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.contact_sheet"),
    shell:
        "python -m workflow_scripts.contact_sheet {params.files} --out {params.stem:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"
