"""Who is in the study: the embedded cohort or scans from elsewhere, one table, splits by person."""


rule phantom:
    """Make one shard of the embedded cohort: people deformed from MNI152, scanned, written as NIfTI."""
    output:
        folder=directory("results/phantom/{shard}"),
    log:
        "results/logs/phantom/{shard}.log",
    benchmark:
        "results/benchmarks/phantom/{shard}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        cfg=as_json(n_shards=len(SHARDS), **cfg.cohort.embedded.model_dump(mode="json")),
        code=code_digest("workflow_scripts.phantom"),
    shell:
        "python -m workflow_scripts.phantom --shard {wildcards.shard} --config {params.cfg:q} --out {output.folder:q}"
        " 2>&1 | tee {log:q}"


rule cohort:
    """List the scans of the study with their people, sites and splits."""
    input:
        made=cohort_inputs(),
    output:
        participants="results/cohort/participants.tsv",
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
        cfg=lambda w: cohort_values(),
        scans=SCANS.digest,
        code=code_digest("workflow_scripts.cohort"),
    shell:
        "python -m workflow_scripts.cohort --config {params.cfg:q} --out {output.participants:q} 2>&1 | tee {log:q}"
