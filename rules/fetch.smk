"""What comes from elsewhere: IXI's scans and people, the published autoencoder. Run where there is a network."""


localrules:
    ixi,
    maisi,


rule ixi:
    """Download, verify and unpack IXI's T1 scans, and clean the table of its people."""
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
        cfg=ixi_values(),
        code=code_digest("workflow_scripts.ixi"),
    shell:
        "python -m workflow_scripts.ixi --config {params.cfg:q} --scans {output.scans:q}"
        " --participants {output.participants:q} 2>&1 | tee {log:q}"


rule maisi:
    """Show the licence of the published autoencoder, download and verify it."""
    output:
        weights=update(maisi_path()),
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
        cfg=maisi_values(),
        code=code_digest("workflow_scripts.maisi"),
    shell:
        "python -m workflow_scripts.maisi --config {params.cfg:q} --out {output.weights:q} 2>&1 | tee {log:q}"
