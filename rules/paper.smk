"""The draft of the paper, its numbers looked up in the results, and its PDF."""


rule paper:
    """The draft as LaTeX, and the list of every number in it with where it was found."""
    input:
        figures=reported("", "pdf"),
        tables=paper_tables(),
        metrics=rules.metrics.output.table,
        card=rules.train.output.card.format(run=RUN),
        qc=rules.qc.output.table,
        validation=rules.validate.output.report,
        timing=rules.timing.output.table.format(run=RUN),
        torus=rules.torus.output.summary,
        questions="results/ablations/questions.csv" if cfg.active else [],
        gates=expand(rules.gate.output.gate, phase=PHASES),
    output:
        text="results/paper/paper.tex",
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
        cfg=lambda w: paper_values(),
        templates=files_digest("neuromf/report/paper/templates"),
        code=code_digest("workflow_scripts.paper"),
    shell:
        "python -m workflow_scripts.paper --results results --config {params.cfg:q} --out {output.text:q}"
        " --numbers {output.numbers:q} 2>&1 | tee {log:q}"


rule typeset:
    """The paper as a PDF, by pdflatex or tectonic; made with the rest of the study where one of them is installed."""
    input:
        text=rules.paper.output.text,
        figures=rules.paper.input.figures,
        tables=rules.paper.input.tables,
    output:
        pdf="results/paper.pdf",
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
        code=code_digest("workflow_scripts.typeset"),
    shell:
        "python -m workflow_scripts.typeset --text {input.text:q} --out {output.pdf:q} 2>&1 | tee {log:q}"
