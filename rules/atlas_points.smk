"""Point model of the atlas: training, evaluation beside closed forms, and a 3D viewer of reconstructions."""

from neuromf.config.atlas_points import read_point_preset


rule atlas_points_train:
    """Train the point model; a killed training resumes."""
    input:
        studies=rules.atlas_studies.output.folder,
        schema=rules.atlas_metadata.output.out,
    output:
        # The last file that the training writes.
        after="results/atlas/runs/points/card.json",
        checkpoint="results/atlas/runs/points/checkpoint",
        history="results/atlas/runs/points/history.csv",
    log:
        "results/logs/atlas_points_train.log",
    benchmark:
        "results/benchmarks/atlas_points_train.tsv"
    priority: 10
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        files=inputs,
        cfg=as_json(**read_point_preset(resolve("studies/atlas/points.yaml"), atlas_short("points"))),
        folder=subpath(output.after, parent=True),
        code=code_digest("workflow_scripts.atlas_points_train"),
    shell:
        "python -m workflow_scripts.atlas_points_train {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_points_evaluate:
    """Reconstruction and generation of the point model on test studies, beside closed forms."""
    input:
        run=rules.atlas_points_train.output.checkpoint,
        studies=rules.atlas_studies.output.folder,
    output:
        out="results/atlas/evaluation/points.json",
    log:
        "results/logs/atlas_points_evaluate.log",
    benchmark:
        "results/benchmarks/atlas_points_evaluate.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(split="test", seed=ATLAS.seed),
        code=code_digest("workflow_scripts.atlas_points_evaluate"),
    shell:
        "python -m workflow_scripts.atlas_points_evaluate {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_points_viewer:
    """3D viewer of foci and their reconstruction for five test studies, and figure F5."""
    input:
        run=rules.atlas_points_train.output.checkpoint,
        studies=rules.atlas_studies.output.folder,
        table=rules.atlas_points_evaluate.output.out,
    output:
        out="results/atlas/pages/points.html",
        library="results/atlas/pages/plotly.min.js",
        png="results/atlas/pages/points.png",
        pdf="results/atlas/pages/points.pdf",
    log:
        "results/logs/atlas_points_viewer.log",
    benchmark:
        "results/benchmarks/atlas_points_viewer.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=inputs,
        cfg=as_json(split="test", seed=ATLAS.seed),
        code=code_digest("workflow_scripts.atlas_points_viewer"),
    shell:
        "python -m workflow_scripts.atlas_points_viewer {params.files} --out {output.out:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule atlas_points_latents:
    """Latents of all studies by the point model."""
    input:
        run=rules.atlas_points_train.output.checkpoint,
        studies=rules.atlas_studies.output.folder,
    output:
        out="results/atlas/latents/points.npz",
    log:
        "results/logs/atlas_points_latents.log",
    benchmark:
        "results/benchmarks/atlas_points_latents.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=files,
        code=code_digest("workflow_scripts.atlas_points_latents"),
    shell:
        "python -m workflow_scripts.atlas_points_latents {params.files} 2>&1 | tee {log:q}"


rule atlas_analyses:
    """Clusters, drift and forecasts of the latents of each model, and canonical correlations between models."""
    input:
        studies=rules.atlas_studies.output.folder,
        maps=atlas_map(ATLAS.kernels[-1]),
        latents=[rules.atlas_points_latents.output.out],
    output:
        out="results/atlas/evaluation/analyses.json",
    log:
        "results/logs/atlas_analyses.log",
    benchmark:
        "results/benchmarks/atlas_analyses.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(seed=ATLAS.seed),
        code=code_digest("workflow_scripts.atlas_analyses"),
    shell:
        "python -m workflow_scripts.atlas_analyses {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_points:
    """Target: the point model and the analyses of latents."""
    input:
        rules.atlas_points_evaluate.output.out,
        rules.atlas_points_viewer.output,
        rules.atlas_analyses.output.out,
    localrule: True
