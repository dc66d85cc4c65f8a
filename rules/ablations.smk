"""Ablations: metrics of their arms, and statistics over seeds.

results/ablations/ waits for every run. results/partial/ waits for none: it holds what exists and names missing arms.
One rule makes both; the wildcard `part` is empty or "partial/".
"""

from neuromf.workflow.arms import file_times


wildcard_constraints:
    ablation=r"(?!questions\.csv)[a-z0-9][a-z0-9.-]*",


rule ablation:
    """Join the metrics of the arms of one ablation: one row per arm, seed, set, nfe and metric."""
    input:
        runs=lambda w: [] if w.part else ARMS.files(w.ablation),
        reference=rules.reference.output.table,
    output:
        out="results/{part}ablations/{ablation}.csv",
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
        files=lambda w, input, output: command_line(
            {"runs": available(w, input.runs, ARMS.files(w.ablation)), "reference": input.reference}, output
        ),
        cfg=lambda w: as_json(ablation=w.ablation, arms=[m[1:] for m in ARMS.of(w.ablation)]),
        times=lambda w: file_times(ARMS.files(w.ablation)) if w.part else "",
        code=code_digest("workflow_scripts.ablation"),
    shell:
        "python -m workflow_scripts.ablation {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule compare_arms:
    """Statistics of every ablation: tests over seeds, effect sizes, equivalence, Pareto front, ratio, cost."""
    input:
        tables=expand(rules.ablation.output.out, ablation=ABLATIONS, allow_missing=True),
    output:
        out="results/{part}ablations/questions.csv",
    log:
        "results/logs/{part}compare_arms.log",
    benchmark:
        "results/benchmarks/{part}compare_arms.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        files=files,
        cfg=as_json(base={name: ARMS.base_arm(name) for name in ABLATIONS}, **dump(cfg.meanflow.ablations.statistics)),
        code=code_digest("workflow_scripts.compare_arms"),
    shell:
        "python -m workflow_scripts.compare_arms {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule ablations:
    """Target: tables, statistics and figures of the ablations that are run."""
    input:
        findings(""),
    localrule: True


rule partial:
    """Target: the same of what exists by now; missing arms are named."""
    input:
        findings("partial/"),
    localrule: True
