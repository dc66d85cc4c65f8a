"""Ablations: what was measured on their arms, what each question came to, and figures of both.

results/ablations/ and results/figures/ wait for every run. results/partial/ waits for none: it holds what there is, and
all that it holds names the arms that are missing. One rule makes both; `part` is empty or "partial/".
"""

ONE_STEP = rules.sample.output.folder.replace("{steps}", "1")


wildcard_constraints:
    part=r"(partial/)?",
    ablation=r"(?!questions\.csv)[a-z0-9][a-z0-9.-]*",


rule ablation:
    """Join what was measured on the arms of one ablation: one row per arm, seed, evaluations and metric."""
    input:
        runs=lambda w: [] if w.part else files_of(w.ablation),
        reference=rules.reference.output.table,
    output:
        table="results/{part}ablations/{ablation}.csv",
    log:
        "results/logs/{part}ablation/{ablation}.log",
    benchmark:
        "results/benchmarks/{part}ablation/{ablation}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cfg=lambda w: as_json(ablation=w.ablation, arms=arms_of(w.ablation)),
        found=lambda w: times_of(files_of(w.ablation)) if w.part else "",
        code=code_digest("workflow_scripts.ablation"),
    shell:
        "python -m workflow_scripts.ablation --runs results/runs --reference {input.reference:q}"
        " --config {params.cfg:q} --out {output.table:q} 2>&1 | tee {log:q}"


rule questions:
    """Every question of the study as rows: tests over seeds, effect sizes, equivalence, front, ratio, cost."""
    input:
        tables=expand(
            rules.ablation.output.table, ablation=cfg.active, allow_missing=True
        ),
    output:
        table="results/{part}ablations/questions.csv",
    log:
        "results/logs/{part}questions.log",
    benchmark:
        "results/benchmarks/{part}questions.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cfg=question_values(),
        code=code_digest("workflow_scripts.questions"),
    shell:
        "python -m workflow_scripts.questions --tables {input.tables:q} --config {params.cfg:q} --out {output.table:q}"
        " 2>&1 | tee {log:q}"


rule fig_4:
    """Distance against the number of evaluations, MeanFlow and Rectified Flow."""
    input:
        table=expand(
            rules.ablation.output.table, ablation="rectified", allow_missing=True
        ),
        quoted=quoted(),
    output:
        pdf="results/{part}figures/fig_4.pdf",
        png=in_report(
            "results/{part}figures/fig_4.png",
            "Figures",
            figure="4",
            shows="evaluations",
        ),
        facts="results/{part}figures/fig_4.json",
    log:
        "results/logs/{part}fig_4.log",
    benchmark:
        "results/benchmarks/{part}fig_4.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=compared("rectified", quoted=next(iter(quoted()), None)),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_4"),
    shell:
        "python -m workflow_scripts.fig_4 --table {input.table:q} --config {params.cfg:q} --out {params.stem:q}"
        " 2>&1 | tee {log:q}"


rule fig_5:
    """The exponent of the loss: distance, similarity, and the front of both."""
    input:
        table=expand(rules.ablation.output.table, ablation="lp", allow_missing=True),
        questions=rules.questions.output.table,
    output:
        pdf="results/{part}figures/fig_5.pdf",
        png=in_report(
            "results/{part}figures/fig_5.png",
            "Figures",
            figure="5",
            shows="exponent of the loss",
        ),
        facts="results/{part}figures/fig_5.json",
    log:
        "results/logs/{part}fig_5.log",
    benchmark:
        "results/benchmarks/{part}fig_5.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=compared("lp"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_5"),
    shell:
        "python -m workflow_scripts.fig_5 --table {input.table:q} --questions {input.questions:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule fig_6:
    """Data against velocity prediction: distances over seeds, and samples from the same noise."""
    input:
        table=expand(
            rules.ablation.output.table, ablation="prediction", allow_missing=True
        ),
        samples=lambda w: (
            [] if w.part else expand(ONE_STEP, run=shown("prediction").values())
        ),
    output:
        pdf="results/{part}figures/fig_6.pdf",
        png=in_report(
            "results/{part}figures/fig_6.png",
            "Figures",
            figure="6",
            shows="data or velocity",
        ),
        facts="results/{part}figures/fig_6.json",
    log:
        "results/logs/{part}fig_6.log",
    benchmark:
        "results/benchmarks/{part}fig_6.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=compared("prediction", shown=list(shown("prediction"))),
        samples=expand(ONE_STEP, run=shown("prediction").values()),
        found=lambda w: (
            times_of(expand(ONE_STEP, run=shown("prediction").values()))
            if w.part
            else ""
        ),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_6"),
    shell:
        "python -m workflow_scripts.fig_6 --table {input.table:q} --samples {params.samples:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule ablations:
    """Target: tables, findings and figures of the active ablations."""
    input:
        findings(""),
    localrule: True


rule partial:
    """Target: the same of what there is by now, whatever failed; it names what is missing."""
    input:
        findings("partial/"),
    localrule: True
