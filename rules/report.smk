"""What users read: captions, the report page and its volumes, the paper.

results/report.html waits for everything; results/partial/report.html waits for nothing and names what is missing.
"""

import shutil

# Files that captions, page, paper and model card read numbers from.
NUMBERS = [
    rules.merge_metrics.output.out,
    *expand(rules.train.output.card, run=ARMS.runs),
    rules.evaluate.output.regional.format(run=RUN),
    rules.qc.output.out,
    rules.validate.output.out,
    rules.latent_statistics.output.out,
    rules.timing.output.out.format(run=RUN),
    rules.torus.output.summary,
    *[rules.pairs.output.pairs] * HAS_LESIONS,
    *expand("results/ablations/{name}.csv", name=[*ABLATIONS, "questions"] if ABLATIONS else []),
]
CAPTIONED = [*artefacts("json"), *NUMBERS]
REPORTED = [
    *artefacts("png", "json"),
    *expand("results/tables/{name}.csv", name=in_study(TABLES)),
    *expand("results/gates/phase_{phase}.json", phase=PHASES),
    *NUMBERS,
    "results/report/reader.json",
]


rule captions:
    """The caption of every figure and table: content, n, seeds, units, device."""
    input:
        inputs=unless_partial(*CAPTIONED),
    output:
        out=directory("results/{part}captions"),
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
        files=lambda w, input, output: command_line(
            {"inputs": available(w, input.inputs, [*CAPTIONED, *findings("partial/")])}, output
        ),
        cfg=as_json(run=RUN),
        times=lambda w: file_times([*CAPTIONED, *findings("partial/")]) if w.part else "",
        templates=files_digest("neuromf/report/captions"),
        code=code_digest("workflow_scripts.captions"),
    shell:
        "python -m workflow_scripts.captions {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule viewer:
    """Bundle the volume viewer with npm from its lock file; an empty bundle, with the reason, if npm is missing."""
    output:
        out="results/report/viewer.js",
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
        files=files,
        sources=files_digest("neuromf/report/page/niivue"),
        code=code_digest("workflow_scripts.viewer"),
    shell:
        "python -m workflow_scripts.viewer {params.files} 2>&1 | tee {log:q}"


rule report_volumes:
    """The volumes on the report page: generated, test participants, reconstructions, and pairs with lesions."""
    input:
        qc=rules.qc.output.out,
        odd=rules.contact_sheet.output.table,
        weights=rules.autoencoder.output.out,
        samples=samples_of(RUN),
        after=[*(pair_tables() or {}).values()][:1]
        + [rules.pairs.output.volumes] * HAS_LESIONS
        + [rules.sample_pairs.output.out.format(run=PAIR_RUN)] * HAS_LESIONS,
    output:
        out=directory("results/report/look"),
    log:
        "results/logs/report_volumes.log",
    benchmark:
        "results/benchmarks/report_volumes.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        files=files,
        cfg=as_json(n=2, run=RUN, spacing_mm=cfg.volumes.spacing_mm, pairs=pair_tables()),
        code=code_digest("workflow_scripts.report_volumes"),
    shell:
        "python -m workflow_scripts.report_volumes {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule report_reader:
    """The volumes of the reader test: one-step samples and decoded latents of test participants, in random order."""
    input:
        qc=rules.qc.output.out,
        latents=rules.latent_statistics.input.latents,
        weights=rules.autoencoder.output.out,
        samples=samples_of(RUN, 1),
    output:
        out="results/report/reader.json",
    log:
        "results/logs/report_reader.log",
    benchmark:
        "results/benchmarks/report_reader.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        files=files,
        cfg=as_json(n_pairs=12, seed=cfg.seed, spacing_mm=cfg.volumes.spacing_mm),
        code=code_digest("workflow_scripts.report_reader"),
    shell:
        "python -m workflow_scripts.report_reader {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule report:
    """One self-contained page: gates, figures, tables, brains, costs, provenance, and what is missing."""
    input:
        inputs=unless_partial(*REPORTED),
        captions=rules.captions.output.out,
        after=unless_partial(rules.report_volumes.output.out, rules.viewer.output.out),
    output:
        out="results/{part}report.html",
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
        # Benchmarks are no outputs of rules: those that exist are read when the job runs.
        files=lambda w, input, output: command_line(
            {
                "inputs": [
                    *available(w, input.inputs, [*REPORTED, *findings("partial/")]),
                    *filter(os.path.exists, GROWTH_REPORTED),
                    input.captions,
                    "results/benchmarks",
                ]
            },
            output,
        ),
        look=rules.report_volumes.output.out,
        viewer=rules.viewer.output.out,
        cfg=lambda w: report_settings(growth=GROWTH_ABOUT),
        licences=rules.viewer.output.licences,
        # The growth system is another target: its section has the results that exist.
        growth_times=file_times(GROWTH_REPORTED),
        times=lambda w: file_times([*REPORTED, *findings("partial/")]) if w.part else "",
        templates=files_digest("neuromf/report/page/templates", "neuromf/report/captions"),
        code=code_digest("workflow_scripts.report"),
    shell:
        "python -m workflow_scripts.report {params.files} --look {params.look:q} --viewer {params.viewer:q}"
        " --licences {params.licences:q} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule paper:
    """The draft as LaTeX, and the list of every number in it with its source."""
    input:
        inputs=[
            *artefacts("pdf"),
            *expand("results/tables/{name}.tex", name=in_study(TABLES)),
            *expand("results/gates/phase_{phase}.json", phase=PHASES),
            *NUMBERS,
        ],
    output:
        out="results/paper/paper.tex",
        numbers="results/paper/numbers.json",
    log:
        "results/logs/paper.log",
    benchmark:
        "results/benchmarks/paper.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=files,
        cfg=lambda w: as_json(
            study=cfg.study,
            run=RUN,
            phases=[*PHASES],
            figures={name: missing_reason(name) for name in PAPER_FIGURES},
            tables={name: missing_reason(name) for name in TABLES},
            config=cfg.model_dump(mode="json", include={"cohort", "volumes", "autoencoder", "meanflow"}),
        ),
        templates=files_digest("neuromf/report/paper/templates"),
        code=code_digest("workflow_scripts.paper"),
    shell:
        "python -m workflow_scripts.paper {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule typeset:
    """The paper as a PDF, by pdflatex or tectonic."""
    input:
        text=rules.paper.output.out,
        after=rules.paper.input.inputs,
    output:
        out="results/paper.pdf",
    log:
        "results/logs/typeset.log",
    benchmark:
        "results/benchmarks/typeset.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=files,
        code=code_digest("workflow_scripts.typeset"),
    shell:
        "python -m workflow_scripts.typeset {params.files} 2>&1 | tee {log:q}"
