"""Tables of the paper, in LaTeX and CSV, from tidy results only."""


rule table_1:
    """The main comparison: the study's run, its baseline, floors, ceilings, quoted numbers marked as such."""
    input:
        metrics=rules.metrics.output.table,
        timing=rules.timing.output.table.format(run=RUN),
    output:
        tex="results/tables/table_1.tex",
        csv=in_report(
            "results/tables/table_1.csv", "Tables", table="1", shows="main comparison"
        ),
        facts="results/tables/table_1.json",
    log:
        "results/logs/table_1.log",
    benchmark:
        "results/benchmarks/table_1.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cfg=provenance("flow", "metrics", shown=["frechet", "kid"], names=baselines()),
        stem=subpath(output.tex, strip_suffix=".tex"),
        code=code_digest("workflow_scripts.table_1"),
    shell:
        "python -m workflow_scripts.table_1 --metrics {input.metrics:q} --timing {input.timing:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule table_arms:
    """Tables 2 and 3: the arms of an ablation, over seeds, with what its questions came to."""
    input:
        table=lambda w: f"results/{w.part}ablations/{TABLED[w.table]}.csv",
        questions=rules.questions.output.table,
    output:
        tex="results/{part}tables/{table}.tex",
        csv=in_report(
            "results/{part}tables/{table}.csv", "Tables", table="{table}", shows="arms"
        ),
        facts="results/{part}tables/{table}.json",
    log:
        "results/logs/{part}{table}.log",
    benchmark:
        "results/benchmarks/{part}{table}.tsv"
    wildcard_constraints:
        table="|".join(TABLED),
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cfg=lambda w: tabled(TABLED[w.table]),
        stem=subpath(output.tex, strip_suffix=".tex"),
        code=code_digest("workflow_scripts.table_arms"),
    shell:
        "python -m workflow_scripts.table_arms --table {input.table:q} --questions {input.questions:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"
