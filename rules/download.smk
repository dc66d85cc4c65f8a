"""Downloads: scans and participants of IXI, the published autoencoder. They run on the machine with a network."""


localrules:
    ixi,
    maisi,


rule ixi:
    """Download, verify and unpack the T1 scans of IXI, and clean the table of participants."""
    output:
        scans=directory(update(ixi_path("T1"))),
        participants=update(ixi_path("participants.tsv")),
    log:
        "results/logs/ixi.log",
    benchmark:
        "results/benchmarks/ixi.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=720,
    params:
        files=files,
        cfg=as_json(ixi=dump(cfg.cohort.ixi, leave=["folder"])),
        code=code_digest("workflow_scripts.ixi"),
    shell:
        "python -m workflow_scripts.ixi {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule maisi:
    """Show the licence of the published autoencoder, download and verify it."""
    output:
        out=update(maisi_path()),
    log:
        "results/logs/maisi.log",
    benchmark:
        "results/benchmarks/maisi.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(autoencoder=dump(cfg.autoencoder, "url", "sha256", "licence")),
        code=code_digest("workflow_scripts.maisi"),
    shell:
        "python -m workflow_scripts.maisi {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"
