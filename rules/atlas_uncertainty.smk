"""Uncertainty, hierarchy and time: ensembles with calibration, hierarchical VAE, and pages that explore them."""

from neuromf.config.atlas_uncertainty import read_ensemble_preset, read_hierarchy_preset

ATLAS_ENSEMBLES = ["snapshot", "independent"]
ATLAS_MEMBERS = range(1, read_ensemble_preset(resolve("studies/atlas/ensemble.yaml"))["k"] + 1)


rule atlas_ensemble:
    """Train an ensemble on the latent of the volume model; a killed training resumes."""
    input:
        studies=rules.atlas_studies.output.folder,
        maps=atlas_map(ATLAS.kernels[-1]),
        checkpoint="results/atlas/runs/cvae/checkpoint",
    output:
        # The last file that a training writes.
        after="results/atlas/ensembles/{ensemble}/card.json",
        members=expand("results/atlas/ensembles/{{ensemble}}/member_{k}.pt", k=ATLAS_MEMBERS),
        history="results/atlas/ensembles/{ensemble}/history.csv",
    log:
        "results/logs/atlas_ensemble/{ensemble}.log",
    benchmark:
        "results/benchmarks/atlas_ensemble/{ensemble}.tsv"
    wildcard_constraints:
        ensemble="|".join(ATLAS_ENSEMBLES),
    priority: 10
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        files=inputs,
        cfg=lambda w: as_json(
            kind=w.ensemble, **read_ensemble_preset(resolve("studies/atlas/ensemble.yaml"), atlas_short("ensemble"))
        ),
        folder=subpath(output.after, parent=True),
        code=code_digest("workflow_scripts.atlas_ensemble"),
    shell:
        "python -m workflow_scripts.atlas_ensemble {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_calibration:
    """Calibration of an ensemble on validation and test studies."""
    input:
        run=rules.atlas_ensemble.output.after,
        checkpoint="results/atlas/runs/cvae/checkpoint",
        studies=rules.atlas_studies.output.folder,
    output:
        out="results/atlas/evaluation/calibration_{ensemble}.json",
    log:
        "results/logs/atlas_calibration/{ensemble}.log",
    benchmark:
        "results/benchmarks/atlas_calibration/{ensemble}.tsv"
    wildcard_constraints:
        ensemble="|".join(ATLAS_ENSEMBLES),
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(**dump(ATLAS.uncertainty), seed=ATLAS.seed),
        code=code_digest("workflow_scripts.atlas_calibration"),
    shell:
        "python -m workflow_scripts.atlas_calibration {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_ensembles:
    """Table of the snapshot ensemble beside independent seeds."""
    input:
        tables=expand(rules.atlas_calibration.output.out, ensemble=ATLAS_ENSEMBLES),
    output:
        out="results/atlas/tables/ensembles.csv",
    log:
        "results/logs/atlas_ensembles.log",
    benchmark:
        "results/benchmarks/atlas_ensembles.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        files=files,
        code=code_digest("workflow_scripts.atlas_ensembles"),
    shell:
        "python -m workflow_scripts.atlas_ensembles {params.files} 2>&1 | tee {log:q}"


rule atlas_confidence:
    """Dual-View Confidence Explorer, and figure F4: reliability, epistemic and aleatoric maps."""
    input:
        run="results/atlas/ensembles/snapshot/card.json",
        checkpoint="results/atlas/runs/cvae/checkpoint",
        points="results/atlas/runs/points/checkpoint",
        studies=rules.atlas_studies.output.folder,
        table="results/atlas/evaluation/calibration_snapshot.json",
    output:
        page="results/atlas/pages/confidence.html",
        pdf="results/atlas/figures/fig_4.pdf",
        png=in_report("results/atlas/figures/fig_4.png", "Atlas", figure="F4", shows="calibration"),
        facts="results/atlas/figures/fig_4.json",
    log:
        "results/logs/atlas_confidence.log",
    benchmark:
        "results/benchmarks/atlas_confidence.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        files=inputs,
        cfg=as_json(study=cfg.study),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        templates=files_digest("neuromf/report/atlas/templates"),
        code=code_digest("workflow_scripts.atlas_confidence"),
    shell:
        "python -m workflow_scripts.atlas_confidence {params.files} --out {params.stem:q} --page {output.page:q}"
        " --config {params.cfg:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_hvae:
    """Train the hierarchical VAE and its flat comparator; a killed training resumes."""
    input:
        studies=rules.atlas_studies.output.folder,
        maps=atlas_map(ATLAS.kernels[-1]),
        schema=rules.atlas_metadata.output.out,
    output:
        # The last file that the training writes.
        after="results/atlas/runs/hvae/card.json",
        models=expand("results/atlas/runs/hvae/{name}.{kind}", name=["hierarchical", "flat"], kind=["pt", "csv"]),
        features="results/atlas/runs/hvae/features.npz",
    log:
        "results/logs/atlas_hvae.log",
    benchmark:
        "results/benchmarks/atlas_hvae.tsv"
    priority: 10
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        files=inputs,
        cfg=as_json(**read_hierarchy_preset(resolve("studies/atlas/hvae.yaml"), atlas_short("hvae"))),
        folder=subpath(output.after, parent=True),
        code=code_digest("workflow_scripts.atlas_hvae"),
    shell:
        "python -m workflow_scripts.atlas_hvae {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_hierarchy:
    """Stage gate of the hierarchy, go or no-go, with the Hierarchy Explorer and figure F6."""
    input:
        run=rules.atlas_hvae.output.after,
        studies=rules.atlas_studies.output.folder,
        schema=rules.atlas_metadata.output.out,
    output:
        table="results/atlas/evaluation/hierarchy.json",
        tree="results/atlas/evaluation/hierarchy.npz",
        page="results/atlas/pages/hierarchy.html",
        pdf="results/atlas/figures/fig_6.pdf",
        png=in_report("results/atlas/figures/fig_6.png", "Atlas", figure="F6", shows="tree of topics"),
        facts="results/atlas/figures/fig_6.json",
    log:
        "results/logs/atlas_hierarchy.log",
    benchmark:
        "results/benchmarks/atlas_hierarchy.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        files=inputs,
        cfg=as_json(study=cfg.study, seed=ATLAS.seed, data_root=None if ATLAS_SCALE == "mock" else ATLAS_ROOT),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        templates=files_digest("neuromf/report/atlas/templates"),
        code=code_digest("workflow_scripts.atlas_hierarchy"),
    shell:
        "python -m workflow_scripts.atlas_hierarchy {params.files} --table {output.table:q} --tree {output.tree:q}"
        " --page {output.page:q} --out {params.stem:q} --config {params.cfg:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_timeline:
    """Zeitgeist timeline, 1997 to 2018, with figure F7."""
    input:
        checkpoint="results/atlas/runs/cvae/checkpoint",
        studies=rules.atlas_studies.output.folder,
    output:
        table="results/atlas/evaluation/timeline.npz",
        page="results/atlas/pages/timeline.html",
        pdf="results/atlas/figures/fig_7.pdf",
        png=in_report("results/atlas/figures/fig_7.png", "Atlas", figure="F7", shows="maps by year"),
        facts="results/atlas/figures/fig_7.json",
    log:
        "results/logs/atlas_timeline.log",
    benchmark:
        "results/benchmarks/atlas_timeline.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        files=inputs,
        cfg=as_json(study=cfg.study, **dump(ATLAS.timeline), seed=ATLAS.seed),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        templates=files_digest("neuromf/report/atlas/templates"),
        code=code_digest("workflow_scripts.atlas_timeline"),
    shell:
        "python -m workflow_scripts.atlas_timeline {params.files} --table {output.table:q} --page {output.page:q}"
        " --out {params.stem:q} --config {params.cfg:q} --code {params.code:q} 2>&1 | tee {log:q}"


rule atlas_uncertainty:
    """Target: uncertainty, hierarchy and time."""
    input:
        expand(rules.atlas_calibration.output.out, ensemble="snapshot"),
        rules.atlas_confidence.output,
        rules.atlas_hierarchy.output,
        rules.atlas_timeline.output,
    localrule: True
