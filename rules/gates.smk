"""Gates between phases: measured values against the criteria of the study. A blocked gate stops later stages.

The gate of phase 5 rates the samples. It stops no stage and blocks no later gate: report and model card open with it.
"""

MAIN_RUN = {
    "metrics": rules.evaluate.output.metrics.format(run=RUN),
    "reference": rules.reference.output.table,
}
MEASURED = {
    0: {"validation": rules.validate.output.out},
    1: {"stats": rules.latent_statistics.output.out, "qc": rules.qc.output.out},
    2: {"history": rules.torus.output.history, "summary": rules.torus.output.summary},
    4: {
        "history": rules.train.output.history.format(run=RUN),
        "diagnostics": rules.train.output.diagnostics.format(run=RUN),
        **MAIN_RUN,
    },
    5: {
        **MAIN_RUN,
        "timing": rules.timing.output.out.format(run=RUN),
        "posterior": rules.posterior.output.out.format(run=RUN),
    },
    6: {
        **MAIN_RUN,
        "questions": "results/ablations/questions.csv",
        **{name: f"results/ablations/{name}.csv" for name in ABLATIONS},
    },
    7: {
        "strategy": rules.choose_mask_encoding.output.out,
        "history": rules.finetune.output.history.format(run=PAIR_RUN),
        "metrics": rules.evaluate_pairs.output.metrics.format(run=PAIR_RUN),
        **{
            "uniform": rules.evaluate_pairs.output.metrics.format(run=run)
            for arm, run in PAIR_ARMS.items()
            if arm == "uniform"
        },
    },
    8: side_files(),
}
TESTS = ["meanflow.test_flow", "meanflow.test_velocity_net", "meanflow.test_module"]  # the criteria of phase 3


rule verify:
    """Run the verification tests of phase 3, and write the result of each."""
    output:
        out="results/gates/measured_3.json",
    log:
        "results/logs/verify.log",
    benchmark:
        "results/benchmarks/verify.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        files=files,
        tests=[f"tests/{name.replace('.', '/')}.py" for name in TESTS],
        code=code_digest("workflow_scripts.verify", *(f"tests.{name}" for name in TESTS)),
    shell:
        "python -m workflow_scripts.verify {params.files} --phase 3 --tests {params.tests:q} 2>&1 | tee {log:q}"


rule measure_criteria:
    """Read the measured value of every criterion of a phase from the results, with its source."""
    input:
        after=lambda w: list(MEASURED[int(w.phase)].values()),
    output:
        out="results/gates/measured_{phase}.json",
    log:
        "results/logs/measure_criteria/{phase}.log",
    benchmark:
        "results/benchmarks/measure_criteria/{phase}.tsv"
    wildcard_constraints:
        phase=r"[0-24-8]",
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        files=files,
        cfg=lambda w: as_json(phase=int(w.phase), files=MEASURED[int(w.phase)]),
        code=code_digest("workflow_scripts.measure_criteria"),
    shell:
        "python -m workflow_scripts.measure_criteria {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule gate:
    """Evaluate the gate of one phase: OPEN, or BLOCKED with the failed rows, their bounds and what to do."""
    input:
        measured="results/gates/measured_{phase}.json",
        after=gate_before,
    output:
        out="results/gates/phase_{phase}.json",
    log:
        "results/logs/gate/{phase}.log",
    benchmark:
        "results/benchmarks/gate/{phase}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        files=files,
        cfg=lambda w: as_json(
            study=cfg.study,
            phase=int(w.phase),
            **{"previous": path for path in gate_before(w)},
            criteria={name: row._asdict() for name, row in CRITERIA.items() if name.startswith(f"P{w.phase}-")},
        ),
        code=code_digest("workflow_scripts.gate"),
    shell:
        "python -m workflow_scripts.gate {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


# Gates of the growth system: one per experiment. They stop no stage.
use rule measure_criteria as growth_measure_criteria with:
    input:
        scores="results/growth/disentanglement/{experiment}.json",
        history="results/growth/runs/{experiment}/logs/epoch_metrics.csv",
    output:
        out="results/growth/gates/measured_{experiment}.json",
    log:
        "results/logs/growth_measure_criteria/{experiment}.log",
    benchmark:
        "results/benchmarks/growth_measure_criteria/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENT,
    params:
        files=lambda w, output: command_line(output),
        cfg=lambda w, input: as_json(phase="growth", files=dict(input.items())),
        code=code_digest("workflow_scripts.measure_criteria"),


use rule gate as growth_gate with:
    input:
        measured="results/growth/gates/measured_{experiment}.json",
    output:
        out="results/growth/gates/{experiment}.json",
    log:
        "results/logs/growth_gate/{experiment}.log",
    benchmark:
        "results/benchmarks/growth_gate/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENT,
    params:
        files=files,
        cfg=lambda w: as_json(
            study=cfg.study,
            phase=w.experiment,
            criteria={name: row._asdict() for name, row in CRITERIA.items() if name.startswith("G-")},
        ),
        code=code_digest("workflow_scripts.gate"),


rule gates:
    """Target: the gate of every phase."""
    input:
        expand(rules.gate.output.out, phase=PHASES),
    localrule: True
