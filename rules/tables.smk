"""Tables of the paper as LaTeX and CSV, from result tables only."""


rule table_1:
    """The main comparison: the main run, its baselines, floors and ceilings, and published values, marked as such."""
    input:
        metrics=rules.merge_metrics.output.out,
        timing=rules.timing.output.out.format(run=RUN),
    output:
        tex="results/tables/table_1.tex",
        csv=in_report("results/tables/table_1.csv", "Tables", table="1", shows="main comparison"),
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
        script="table_1",
        files=files,
        cfg=as_json(
            **provenance(cfg, RUN, "meanflow.flow", "evaluation"),
            column_metrics=["frechet", "kid"],
            names=ARMS.baselines(),
        ),
        stem=subpath(output.tex, strip_suffix=".tex"),
        code=code_digest("workflow_scripts.table_1"),
    shell:
        "python -m workflow_scripts.{params.script} {params.files} --out {params.stem:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule table_arms:
    """Tables 2 and 3: the arms of an ablation over seeds, and their statistics."""
    input:
        table=lambda w: f"results/{w.part}ablations/{TABLES[w.table].ablation}.csv",
        questions=rules.compare_arms.output.out,
    output:
        tex="results/{part}tables/{table}.tex",
        csv=in_report("results/{part}tables/{table}.csv", "Tables", table="{table}", shows="arms"),
        facts="results/{part}tables/{table}.json",
    log:
        "results/logs/{part}{table}.log",
    benchmark:
        "results/benchmarks/{part}{table}.tsv"
    wildcard_constraints:
        table="table_2|table_3",
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        files=files,
        cfg=lambda w: as_json(**ARMS.table_values(TABLES[w.table].ablation)),
        stem=subpath(output.tex, strip_suffix=".tex"),
        code=code_digest("workflow_scripts.table_arms"),
    shell:
        "python -m workflow_scripts.table_arms {params.files} --out {params.stem:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


use rule table_1 as table_4 with:
    input:
        metrics=expand(rules.evaluate_pairs.output.metrics, run=PAIR_RUNS),
        cards=expand(rules.finetune.output.card, run=PAIR_RUNS),
    output:
        tex="results/tables/table_4.tex",
        csv=in_report("results/tables/table_4.csv", "Tables", table="4", shows="lesions"),
        facts="results/tables/table_4.json",
    log:
        "results/logs/table_4.log",
    benchmark:
        "results/benchmarks/table_4.tsv"
    params:
        script="table_4",
        files=files,
        cfg=lambda w: as_json(**provenance(cfg, RUN, "lesions"), arms=PAIR_ARMS, column_metrics=["kid"]),
        stem=subpath(output.tex, strip_suffix=".tex"),
        code=code_digest("workflow_scripts.table_4"),
