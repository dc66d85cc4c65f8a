"""Synthesis and release of the atlas: one-step prior, exports, Discovery Platform, manuscript, bundle."""

ATLAS_EXPORT = "results/atlas/export"


rule atlas_prior:
    """Train the one-step prior: MeanFlow on the latents of the volume model."""
    input:
        studies=rules.atlas_studies.output.folder,
        checkpoint="results/atlas/runs/cvae/checkpoint",
    output:
        out="results/atlas/prior/prior.pt",
        history="results/atlas/prior/history.csv",
    log:
        "results/logs/atlas_prior.log",
    benchmark:
        "results/benchmarks/atlas_prior.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(**dump(ATLAS, "seed"), **dump(ATLAS.prior.train)),
        code=code_digest("workflow_scripts.atlas_prior"),
    shell:
        "python -m workflow_scripts.atlas_prior {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_prior_evaluate:
    """Compare samples from N(0, I) with samples from the one-step prior."""
    input:
        studies=rules.atlas_studies.output.folder,
        checkpoint="results/atlas/runs/cvae/checkpoint",
        prior=rules.atlas_prior.output.out,
    output:
        out="results/atlas/evaluation/prior.json",
    log:
        "results/logs/atlas_prior_evaluate.log",
    benchmark:
        "results/benchmarks/atlas_prior_evaluate.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(**dump(ATLAS, "grid", "seed"), **dump(ATLAS.prior.evaluation)),
        code=code_digest("workflow_scripts.atlas_prior_evaluate"),
    shell:
        "python -m workflow_scripts.atlas_prior_evaluate {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


# Figure F8: the one-step prior against N(0, I).
use rule fig_1 as atlas_fig_8 with:
    input:
        result=rules.atlas_prior_evaluate.output.out,
    output:
        pdf="results/atlas/figures/fig_8.pdf",
        png=in_report("results/atlas/figures/fig_8.png", "Atlas", figure="F8", shows="one-step prior of latents"),
        facts="results/atlas/figures/fig_8.json",
    log:
        "results/logs/atlas_fig_8.log",
    benchmark:
        "results/benchmarks/atlas_fig_8.tsv"
    params:
        script="atlas_fig_8",
        files=files,
        cfg=as_json(study=cfg.study),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.atlas_fig_8"),


rule atlas_export:
    """Export tables (CSV, Parquet), maps (NIfTI) and networks (ONNX) for programs without Python."""
    input:
        studies=rules.atlas_studies.output.folder,
        checkpoint="results/atlas/runs/cvae/checkpoint",
        points=rules.atlas_points_train.output.checkpoint,
        latents=[rules.atlas_points_latents.output.out],
    output:
        tables=directory(f"{ATLAS_EXPORT}/tables"),
        maps=directory(f"{ATLAS_EXPORT}/maps"),
        onnx=directory(f"{ATLAS_EXPORT}/onnx"),
    log:
        "results/logs/atlas_export.log",
    benchmark:
        "results/benchmarks/atlas_export.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(**dump(ATLAS, "seed")),
        code=code_digest("workflow_scripts.atlas_export"),
    shell:
        "python -m workflow_scripts.atlas_export {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


# Pages that the Discovery Platform links, and figures that it holds.
ATLAS_PAGES = [
    *rules.atlas_pages.output,
    rules.atlas_points_viewer.output.out,
    rules.atlas_confidence.output.page,
    rules.atlas_hierarchy.output.page,
    rules.atlas_timeline.output.page,
]
ATLAS_FIGURES = [
    rules.atlas_fig_1.output.png,
    rules.atlas_fig_2.output.png,
    rules.atlas_fig_3.output.png,
    rules.atlas_confidence.output.png,
    rules.atlas_points_viewer.output.png,
    rules.atlas_hierarchy.output.png,
    rules.atlas_timeline.output.png,
    rules.atlas_fig_8.output.png,
]


rule atlas_manuscript:
    """Manuscript as LaTeX, and the source of every number in it."""
    input:
        studies=rules.atlas_studies.output.folder,
        inputs=[
            rules.atlas_evaluate.output.out,
            rules.atlas_prior_evaluate.output.out,
            rules.atlas_points_evaluate.output.out,
            rules.atlas_analyses.output.out,
            rules.atlas_export.output.onnx,
        ],
        figures=[
            rules.atlas_fig_1.output.pdf,
            rules.atlas_fig_2.output.pdf,
            rules.atlas_fig_3.output.pdf,
            rules.atlas_confidence.output.pdf,
            rules.atlas_points_viewer.output.pdf,
            rules.atlas_hierarchy.output.pdf,
            rules.atlas_timeline.output.pdf,
            rules.atlas_fig_8.output.pdf,
        ],
    output:
        out="results/atlas/paper/manuscript.tex",
        numbers="results/atlas/paper/numbers.json",
    log:
        "results/logs/atlas_manuscript.log",
    benchmark:
        "results/benchmarks/atlas_manuscript.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=files,
        templates=files_digest("neuromf/report/atlas/templates"),
        code=code_digest("workflow_scripts.atlas_manuscript"),
    shell:
        "python -m workflow_scripts.atlas_manuscript {params.files} 2>&1 | tee {log:q}"


rule atlas_platform:
    """Discovery Platform: voxel to insight, figures, links to the other pages and downloads."""
    input:
        studies=rules.atlas_studies.output.folder,
        checkpoint="results/atlas/runs/cvae/checkpoint",
        results=rules.atlas_evaluate.output.out,
        pages=ATLAS_PAGES,
        figures=ATLAS_FIGURES,
        downloads=rules.atlas_export.output,
        gates=expand("results/atlas/gates/stage_{n}.json", n=[1, 2, 3]),
    output:
        out="results/atlas/pages/index.html",
    log:
        "results/logs/atlas_platform.log",
    benchmark:
        "results/benchmarks/atlas_platform.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        files=files,
        templates=files_digest("neuromf/report/atlas/templates"),
        code=code_digest("workflow_scripts.atlas_platform"),
    shell:
        "python -m workflow_scripts.atlas_platform {params.files} --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_release:
    """Bundle with manifest, licences and checksums; refused unless all of it is of the full data."""
    input:
        folder=rules.atlas_studies.output.folder,
        inputs=[
            rules.atlas_metadata.output.out,
            rules.atlas_fig_1.output.facts,
            *rules.atlas_export.output,
            *ATLAS_PAGES,
            rules.atlas_points_viewer.output.library,
            rules.atlas_platform.output.out,
            rules.atlas_evaluate.output.out,
            rules.atlas_prior_evaluate.output.out,
            rules.atlas_timeline.output.pdf,
            rules.atlas_timeline.output.png,
            *rules.atlas_fig_8.output,
            *rules.atlas_manuscript.output,
            *expand("results/atlas/gates/stage_{n}.json", n=[1, 2, 3, 4]),
        ],
    output:
        out="results/atlas/release/manifest.json",
        bundle="results/atlas/release/neuromf_atlas.tar",
    log:
        "results/logs/atlas_release.log",
    benchmark:
        "results/benchmarks/atlas_release.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=files,
        code=code_digest("workflow_scripts.atlas_release"),
    shell:
        "python -m workflow_scripts.atlas_release {params.files} 2>&1 | tee {log:q}"


rule atlas_synthesis:
    """Target: one-step prior, exports, Discovery Platform and manuscript."""
    input:
        rules.atlas_fig_8.output,
        rules.atlas_manuscript.output,
        rules.atlas_export.output,
        rules.atlas_platform.output,
        "results/atlas/gates/stage_4.json",
    localrule: True


rule atlas:
    """Target: the atlas."""
    input:
        expand(rules.atlas_maps.output.out, fwhm=[f"{fwhm:g}" for fwhm in ATLAS.kernels]),
        rules.atlas_metadata.output.out,
        rules.atlas_fig_1.output,
        rules.atlas_models.input,
        rules.atlas_points.input,
        rules.atlas_evaluation.input,
        rules.atlas_uncertainty.input,
        [] if ATLAS_SCALE == "subset_1k" else rules.atlas_synthesis.input,
        rules.atlas_status.output.out,
        rules.atlas_dvc.output.out,
    localrule: True
