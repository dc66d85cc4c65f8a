"""Atlas of brain function: Neurosynth or mock studies, cleaned and split; maps, metadata schema, figures, gates."""

ATLAS = cfg.atlas
ATLAS_ROOT = str(ATLAS.root(resolve(".")))
ATLAS_SCALE = ATLAS.chosen_scale(resolve("."))
ATLAS_SOURCE = {"scale": ATLAS_SCALE, "data_root": ATLAS_ROOT, "seed": ATLAS.seed}


localrules:
    atlas_neurosynth,
    atlas_statmaps,
    atlas_dvc,


rule atlas_neurosynth:
    """Download and verify Neurosynth version 7."""
    output:
        after=update(expand("{root}/neurosynth_v7/{name}", root=ATLAS_ROOT, name=NEUROSYNTH_FILES)),
    log:
        "results/logs/atlas_neurosynth.log",
    benchmark:
        "results/benchmarks/atlas_neurosynth.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        cfg=as_json(address=ATLAS.downloads.neurosynth, sha256=ATLAS.downloads.sha256),
        folder=lambda w, output: os.path.dirname(output.after[0]),
        code=code_digest("workflow_scripts.atlas_neurosynth"),
    shell:
        "python -m workflow_scripts.atlas_neurosynth --folder {params.folder:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule atlas_statmaps:
    """Download and verify the pain and button-press maps, and list them."""
    output:
        after=update(f"{ATLAS_ROOT}/statmaps/maps.tsv"),
    log:
        "results/logs/atlas_statmaps.log",
    benchmark:
        "results/benchmarks/atlas_statmaps.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        cfg=lambda w: as_json(**ATLAS.statistical_maps()),
        folder=subpath(output.after, parent=True),
        code=code_digest("workflow_scripts.atlas_statmaps"),
    shell:
        "python -m workflow_scripts.atlas_statmaps --folder {params.folder:q} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_fetch:
    """Target: the published files of the atlas."""
    input:
        rules.atlas_neurosynth.output,
        rules.atlas_statmaps.output,
    localrule: True


rule atlas_studies:
    """Clean the studies, reduce them to the scale, and split them; the log of coordinates."""
    input:
        after=atlas_inputs(),
    output:
        folder=directory("results/atlas/studies"),
    log:
        "results/logs/atlas_studies.log",
    benchmark:
        "results/benchmarks/atlas_studies.tsv"
    priority: 5  # the chain of the atlas starts here
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        cfg=as_json(**ATLAS_SOURCE, split=ATLAS.split, **ATLAS.cleaning()),
        code=code_digest("workflow_scripts.atlas_studies"),
    shell:
        "python -m workflow_scripts.atlas_studies --out {output.folder:q} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_maps:
    """Maps of all studies with one kernel."""
    input:
        folder=rules.atlas_studies.output.folder,
    output:
        out="results/atlas/maps/{fwhm}.npy",
    log:
        "results/logs/atlas_maps/{fwhm}.log",
    benchmark:
        "results/benchmarks/atlas_maps/{fwhm}.tsv"
    wildcard_constraints:
        fwhm=r"[\d.]+",
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000 if ATLAS.grid == "6mm" else 32000,
        runtime=30,
    params:
        files=files,
        cfg=lambda w: as_json(grid=ATLAS.grid, combine=ATLAS.combine, fwhm_mm=float(w.fwhm)),
        code=code_digest("workflow_scripts.atlas_maps"),
    shell:
        "python -m workflow_scripts.atlas_maps {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_caches:
    """Caches of maps and points, for trainings on large grids; no other rule needs them."""
    input:
        folder=rules.atlas_studies.output.folder,
    output:
        maps="results/atlas/caches/maps.lmdb",
        points="results/atlas/caches/points.h5",
    log:
        "results/logs/atlas_caches.log",
    benchmark:
        "results/benchmarks/atlas_caches.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(**dump(ATLAS, "grid", "kernels", "combine")),
        code=code_digest("workflow_scripts.atlas_caches"),
    shell:
        "python -m workflow_scripts.atlas_caches {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_metadata:
    """Schema of the metadata vector, fitted to the training studies."""
    input:
        folder=rules.atlas_studies.output.folder,
    output:
        out="results/atlas/metadata/schema.json",
    log:
        "results/logs/atlas_metadata.log",
    benchmark:
        "results/benchmarks/atlas_metadata.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        files=files,
        code=code_digest("workflow_scripts.atlas_metadata"),
    shell:
        "python -m workflow_scripts.atlas_metadata {params.files} 2>&1 | tee {log:q}"


# Figure F1: foci by space before and after cleaning.
use rule fig_1 as atlas_fig_1 with:
    input:
        folder=rules.atlas_studies.output.folder,
    output:
        pdf="results/atlas/figures/fig_1.pdf",
        png=in_report("results/atlas/figures/fig_1.png", "Atlas", figure="F1", shows="foci by space"),
        facts="results/atlas/figures/fig_1.json",
    log:
        "results/logs/atlas_fig_1.log",
    benchmark:
        "results/benchmarks/atlas_fig_1.tsv"
    params:
        script="atlas_fig_1",
        files=files,
        cfg=as_json(study=cfg.study, **ATLAS_SOURCE),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.atlas_fig_1"),


# Files that the criteria of each stage are measured from.
ATLAS_MEASURED = {
    1: {
        "studies": rules.atlas_studies.output.folder,
        "maps": atlas_map(ATLAS.kernels[-1]),
        "ladder": "results/atlas/baselines/bits.csv",
        "history": "results/atlas/runs/baseline_vae/history.csv",
    },
    2: {
        "results": "results/atlas/evaluation/test_results.json",
        "history": "results/atlas/runs/cvae/history.csv",
    },
    3: {
        "calibration": "results/atlas/evaluation/calibration_snapshot.json",
        "hierarchy": "results/atlas/evaluation/hierarchy.json",
    },
    # Stage 4 refuses the subset.
    4: {
        "tables": "results/atlas/export/tables",
        "maps": "results/atlas/export/maps",
        "onnx": "results/atlas/export/onnx",
        "prior": "results/atlas/evaluation/prior.json",
        "platform": "results/atlas/pages/index.html",
    },
}
if ATLAS_SCALE == "subset_1k":
    del ATLAS_MEASURED[4]


rule atlas_gate:
    """Measure the criteria of one stage, and evaluate its gate: OPEN, or BLOCKED with the failed rows and what to do."""
    input:
        after=lambda w: list(ATLAS_MEASURED[int(w.stage)].values()),
        previous=lambda w: [
            f"results/atlas/gates/stage_{max(earlier)}.json"
            for earlier in [[stage for stage in ATLAS_MEASURED if stage < int(w.stage)]]
            if earlier
        ],
    output:
        out="results/atlas/gates/stage_{stage}.json",
    log:
        "results/logs/atlas_gate/{stage}.log",
    benchmark:
        "results/benchmarks/atlas_gate/{stage}.tsv"
    wildcard_constraints:
        stage="[1-4]",
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=lambda w, input: as_json(
            study=cfg.study,
            phase=int(w.stage),
            files=ATLAS_MEASURED[int(w.stage)],
            criteria=atlas_criteria(w.stage),
            **({"previous": input.previous[0]} if input.previous else {}),
        ),
        code=code_digest("workflow_scripts.atlas_gate"),
    shell:
        "python -m workflow_scripts.atlas_gate --out {output.out:q} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_status:
    """Status of all stages as a table, from their gates."""
    input:
        gates=expand("results/atlas/gates/stage_{stage}.json", stage=ATLAS_MEASURED),
    output:
        out="results/atlas/tables/status.md",
    log:
        "results/logs/atlas_status.log",
    benchmark:
        "results/benchmarks/atlas_status.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        files=files,
        code=code_digest("workflow_scripts.atlas_status"),
    shell:
        "python -m workflow_scripts.atlas_status {params.files} 2>&1 | tee {log:q}"


rule atlas_dvc:
    """dvc.yaml with one stage per rule of the atlas, for those who use DVC."""
    output:
        out="results/atlas/dvc.yaml",
    log:
        "results/logs/atlas_dvc.log",
    benchmark:
        "results/benchmarks/atlas_dvc.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        files=files,
        cfg=lambda w: as_json(stages=atlas_dvc()),
        code=code_digest("workflow_scripts.atlas_dvc"),
    shell:
        "python -m workflow_scripts.atlas_dvc {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"
