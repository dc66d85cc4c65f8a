"""Nine gates, one per phase: measured values against the bounds of the study. A blocked one stops what rests on it."""

MEASURED = {
    0: {"validation": rules.validate.output.report},
    1: {"stats": rules.stats.output.stats, "qc": rules.qc.output.table},
    2: {"history": rules.torus.output.history, "summary": rules.torus.output.summary},
    3: {"verdicts": "results/gates/verdicts_3.json"},
    4: {
        "history": rules.train.output.history.format(run=RUN),
        "diagnostics": rules.train.output.diagnostics.format(run=RUN),
        "metrics": rules.measure.output.metrics.format(run=RUN),
        "reference": rules.reference.output.table,
    },
    5: {
        "metrics": rules.measure.output.metrics.format(run=RUN),
        "reference": rules.reference.output.table,
        "timing": rules.timing.output.table.format(run=RUN),
    },
    6: {
        "metrics": rules.measure.output.metrics.format(run=RUN),
        "reference": rules.reference.output.table,
        "questions": "results/ablations/questions.csv",
        **{name: f"results/ablations/{name}.csv" for name in cfg.active},
    },
    7: {
        "strategy": rules.strategy.output.strategy,
        "history": rules.joint.output.history.format(run=JOINT),
        "metrics": rules.joint_metrics.output.metrics.format(run=JOINT),
        **{
            arm: rules.joint_metrics.output.metrics.format(run=run)
            for arm, run in JOINT_ARMS.items()
            if arm == "uniform"
        },
    },
    8: shown_paper(),
}


rule verify:
    """Run the verification tests of a phase whose criteria are tests, and keep their verdicts."""
    output:
        verdicts="results/gates/verdicts_{phase}.json",
    log:
        "results/logs/verify/{phase}.log",
    benchmark:
        "results/benchmarks/verify/{phase}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        tests=verification_tests(),
        code=code_digest(
            "workflow_scripts.verify",
            "neuromf.meanflow.flow",
            "neuromf.meanflow.velocity_net",
            "neuromf.meanflow.module",
            "tests.meanflow.test_flow",
            "tests.meanflow.test_velocity_net",
            "tests.meanflow.test_module",
        ),
    shell:
        "python -m workflow_scripts.verify --phase {wildcards.phase} --tests {params.tests:q} --out {output.verdicts:q} 2>&1 | tee {log:q}"


rule gate:
    """Judge one phase: OPEN, or BLOCKED with the failed rows, their bounds and what to do."""
    input:
        measured=lambda w: list(MEASURED[int(w.phase)].values()),
        before=gate_before,
    output:
        gate="results/gates/phase_{phase}.json",
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
        cfg=as_json(study=cfg.study, **cfg.gates.model_dump()),
        measured=lambda w: as_json(**MEASURED[int(w.phase)]),
        before=lambda w: "".join(gate_before(w)) or "none",
        code=code_digest("workflow_scripts.gate"),
    shell:
        "python -m workflow_scripts.gate --phase {wildcards.phase} --config {params.cfg:q}"
        " --measured {params.measured:q} --before {params.before:q} --out {output.gate:q} 2>&1 | tee {log:q}"


rule gates:
    """Target: the gate of every phase."""
    input:
        expand(rules.gate.output.gate, phase=PHASES),
    localrule: True
