"""Volume model of the atlas: training of the presets, figure F3, Latent Slider and Counterfactual Machine."""

from neuromf.config.atlas_model import read_atlas_preset

ATLAS_PRESETS = ["baseline_vae", "cvae"]  # of the target; others by the path of their run


rule atlas_train:
    """Train one preset of the volume model; a killed training resumes."""
    input:
        studies=rules.atlas_studies.output.folder,
        schema=rules.atlas_metadata.output.out,
    output:
        # The last file that a training writes.
        after="results/atlas/runs/{preset}/card.json",
        checkpoint="results/atlas/runs/{preset}/checkpoint",
        history="results/atlas/runs/{preset}/history.csv",
    log:
        "results/logs/atlas_train/{preset}.log",
    benchmark:
        "results/benchmarks/atlas_train/{preset}.tsv"
    wildcard_constraints:
        preset="(?!points$)[a-z0-9_]+",  # rule atlas_points_train writes runs/points
    priority: 10
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=3000 if ATLAS.grid == "6mm" else 16000,
        runtime=120,
    params:
        files=inputs,
        cfg=lambda w: atlas_preset(w.preset),
        folder=subpath(output.after, parent=True),
        code=code_digest("workflow_scripts.atlas_train"),
    shell:
        "python -m workflow_scripts.atlas_train {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


# Figure F3: latent traversals and a counterfactual on glass brains.
use rule fig_1 as atlas_fig_3 with:
    input:
        checkpoint="results/atlas/runs/cvae/checkpoint",
    output:
        pdf="results/atlas/figures/fig_3.pdf",
        png=in_report("results/atlas/figures/fig_3.png", "Atlas", figure="F3", shows="traversals, counterfactual"),
        facts="results/atlas/figures/fig_3.json",
    log:
        "results/logs/atlas_fig_3.log",
    benchmark:
        "results/benchmarks/atlas_fig_3.tsv"
    params:
        script="atlas_fig_3",
        files=files,
        cfg=as_json(study=cfg.study, **ATLAS_SOURCE),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.atlas_fig_3"),


rule atlas_pages:
    """Latent Slider and Counterfactual Machine: pages that need no server."""
    input:
        checkpoint="results/atlas/runs/cvae/checkpoint",
    output:
        slider="results/atlas/pages/latent_slider.html",
        counterfactual="results/atlas/pages/counterfactual.html",
    log:
        "results/logs/atlas_pages.log",
    benchmark:
        "results/benchmarks/atlas_pages.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        files=files,
        templates=files_digest("neuromf/report/atlas/templates"),
        code=code_digest("workflow_scripts.atlas_pages"),
    shell:
        "python -m workflow_scripts.atlas_pages {params.files} --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_models:
    """Target: the volume model."""
    input:
        expand(rules.atlas_train.output.after, preset=ATLAS_PRESETS),
        rules.atlas_fig_3.output,
        rules.atlas_pages.output,
    localrule: True
