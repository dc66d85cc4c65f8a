"""A run for others: packed with its terms and its model card; its one-step generator as one ONNX file."""


rule export:
    """Weights as safetensors, settings, terms and model card: the folder that generate.load_run reads anywhere."""
    input:
        model=rules.train.output.model.format(run=RUN),
        weights=rules.vae.output.weights,
        card=rules.train.output.card.format(run=RUN),
        metrics=rules.measure.output.metrics.format(run=RUN),
        reference=rules.reference.output.table,
        people=rules.cohort.output.participants,
        qc=rules.qc.output.table,
        validation=rules.validate.output.report,
        timing=rules.timing.output.table.format(run=RUN),
        gates=expand(rules.gate.output.gate, phase=TOLD),
    output:
        weights="results/export/weights.safetensors",
        config="results/export/config.json",
        card="results/export/card.json",
        readme="results/export/README.md",
        licence="results/export/LICENSE.md",
    log:
        "results/logs/export.log",
    benchmark:
        "results/benchmarks/export.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=export_values(),
        folder=subpath(output.config, parent=True),
        templates=files_digest("neuromf/report/release/templates"),
        code=code_digest("workflow_scripts.export"),
    shell:
        "python -m workflow_scripts.export --model {input.model:q} --weights {input.weights:q} --results results"
        " --config {params.cfg:q} --code {params.code:q} --out {params.folder:q} 2>&1 | tee {log:q}"


rule onnx:
    """The one-evaluation generator, from noise to volume, as one ONNX file, held against torch."""
    input:
        model=rules.train.output.model.format(run=RUN),
        weights=rules.vae.output.weights,
    output:
        onnx="results/export/generator.onnx",
        check="results/export/generator.json",
    log:
        "results/logs/onnx.log",
    benchmark:
        "results/benchmarks/onnx.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime=30,
    params:
        cfg=onnx_values(),
        code=code_digest("workflow_scripts.onnx"),
    shell:
        "python -m workflow_scripts.onnx --model {input.model:q} --weights {input.weights:q}"
        " --config {params.cfg:q} --out {output.onnx:q} --check {output.check:q} 2>&1 | tee {log:q}"
