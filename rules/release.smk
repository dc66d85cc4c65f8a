"""The main run for others: packed with terms and model card, and its one-step generator as one ONNX file."""

# Gates on the model card: those about the run itself.
CARD_PHASES = range(6)


rule export:
    """Weights as safetensors, settings, terms and model card: a folder that meanflow.run.load_run reads anywhere."""
    input:
        model=rules.train.output.model.format(run=RUN),
        weights=rules.autoencoder.output.out,
        inputs=[
            rules.train.output.card.format(run=RUN),
            rules.evaluate.output.metrics.format(run=RUN),
            rules.reference.output.table,
            rules.cohort.output.out,
            rules.qc.output.out,
            rules.validate.output.out,
            rules.timing.output.out.format(run=RUN),
            *expand(rules.gate.output.out, phase=CARD_PHASES),
        ],
    output:
        after=multiext("results/export/", "weights.safetensors", "config.json", "card.json", "README.md", "LICENSE.md"),
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
        files=inputs,
        cfg=as_json(
            study=cfg.study,
            run=RUN,
            source=cfg.cohort.source,
            spacing_mm=cfg.volumes.spacing_mm,
            samples=dump(cfg.meanflow.samples),
            threads=1,
            autoencoder=dump(cfg.autoencoder, "weights", "steps", "sha256", "url", "licence"),
            phases=[*CARD_PHASES],
        ),
        folder=subpath(output[0], parent=True),
        templates=files_digest("neuromf/report/release/templates"),
        code=code_digest("workflow_scripts.export"),
    shell:
        "python -m workflow_scripts.export {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


rule onnx:
    """The one-step generator, from noise to volume, as one ONNX file, compared with torch."""
    input:
        model=rules.train.output.model.format(run=RUN),
        weights=rules.autoencoder.output.out,
    output:
        out="results/export/generator.onnx",
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
        files=files,
        cfg=as_json(study=cfg.study, run=RUN, seed=cfg.meanflow.samples.seed, n=4),
        code=code_digest("workflow_scripts.onnx"),
    shell:
        "python -m workflow_scripts.onnx {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"
