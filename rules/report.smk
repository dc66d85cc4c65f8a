"""The page that a study is sent as, what it shows of brains, and the captions, which Snakemake's own report shows too.

results/report.html waits for everything; results/partial/report.html waits for nothing and names what is missing.
"""


rule captions:
    """The caption of every figure and table: what it shows, n, seeds, units, device."""
    input:
        lambda w: reported(w.part, "json"),
        lambda w: [] if w.part else [rules.metrics.output.table],
        lambda w: (
            [] if w.part else expand("results/runs/{run}/card.json", run=[*RUNS])
        ),
    output:
        folder=directory("results/{part}captions"),
    log:
        "results/logs/{part}captions.log",
    benchmark:
        "results/benchmarks/{part}captions.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cfg=lambda w: as_json(run=RUN, partial=bool(w.part)),
        found=lambda w: (
            times_of(reported("", "json") + findings("partial/")) if w.part else ""
        ),
        templates=files_digest("neuromf/report/captions"),
        code=code_digest("workflow_scripts.captions"),
    shell:
        "python -m workflow_scripts.captions --results results --config {params.cfg:q} --out {output.folder:q}"
        " 2>&1 | tee {log:q}"


rule viewer:
    """The viewer of volumes, bundled by npm from its lock file; empty, with the reason, where npm is missing."""
    output:
        script="results/report/viewer.js",
        licences="results/report/licences.txt",
    log:
        "results/logs/viewer.log",
    benchmark:
        "results/benchmarks/viewer.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        sources=files_digest("neuromf/report/page/niivue"),
        code=code_digest("workflow_scripts.viewer"),
    shell:
        "python -m workflow_scripts.viewer --out {output.script:q} --licences {output.licences:q} 2>&1 | tee {log:q}"


rule look:
    """The few volumes that the page shows: generated, held out, after the autoencoder; FLAIR with masks where there."""
    input:
        qc=rules.qc.output.table,
        odd=rules.contact.output.table,
        weights=rules.vae.output.weights,
        samples=looked,
        lesions=lesions_looked(),
    output:
        folder=directory("results/report/look"),
    log:
        "results/logs/look.log",
    benchmark:
        "results/benchmarks/look.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        cfg=look_values(),
        code=code_digest("workflow_scripts.look"),
    shell:
        "python -m workflow_scripts.look --qc {input.qc:q} --odd {input.odd:q} --weights {input.weights:q}"
        " --samples {input.samples:q} --config {params.cfg:q} --out {output.folder:q}"
        " 2>&1 | tee {log:q}"


rule report:
    """One self-contained page: gates, figures, tables, brains, costs, provenance, and what is missing."""
    input:
        lambda w: reported(w.part, "png", "json"),
        lambda w: [] if w.part else expand(rules.gate.output.gate, phase=PHASES),
        lambda w: [] if w.part else [rules.metrics.output.table, *findings("")],
        lambda w: [] if w.part else [rules.validate.output.report],
        captions=rules.captions.output.folder,
        look=lambda w: [] if w.part else rules.look.output.folder,
        viewer=lambda w: [] if w.part else rules.viewer.output.script,
    output:
        page="results/{part}report.html",
    log:
        "results/logs/{part}report.log",
    benchmark:
        "results/benchmarks/{part}report.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=lambda w: report_values(w.part),
        look=rules.look.output.folder,
        viewer=rules.viewer.output.script,
        licences=rules.viewer.output.licences,
        found=lambda w: (
            times_of(reported("", "json") + findings("partial/")) if w.part else ""
        ),
        templates=files_digest("neuromf/report/page/templates", "neuromf/report/captions"),
        code=code_digest("workflow_scripts.report"),
    shell:
        "python -m workflow_scripts.report --results results --look {params.look:q} --viewer {params.viewer:q}"
        " --licences {params.licences:q} --config {params.cfg:q} --out {output.page:q} 2>&1 | tee {log:q}"
