"""Evaluation of the atlas: classical models, the trained model, comparisons by NiMARE, figure F2."""

ATLAS_COMPARATORS = {"comparators": ATLAS.comparators.topics, "comparators_long": None}  # None: all topics


rule atlas_baselines:
    """Score the classical models in bits per focus, with intervals over studies."""
    input:
        folder=rules.atlas_studies.output.folder,
    output:
        out="results/atlas/baselines/bits.csv",
    log:
        "results/logs/atlas_baselines.log",
    benchmark:
        "results/benchmarks/atlas_baselines.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        files=files,
        cfg=as_json(**dump(ATLAS, "grid", "seed")),
        code=code_digest("workflow_scripts.atlas_baselines"),
    shell:
        "python -m workflow_scripts.atlas_baselines {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_evaluate:
    """Evaluate the trained model on test studies and external maps, beside the classical models."""
    input:
        folder=rules.atlas_studies.output.folder,
        checkpoint="results/atlas/runs/cvae/checkpoint",
    output:
        out="results/atlas/evaluation/test_results.json",
    log:
        "results/logs/atlas_evaluate.log",
    benchmark:
        "results/benchmarks/atlas_evaluate.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        files=files,
        cfg=as_json(data_root=ATLAS_ROOT, **dump(ATLAS, "grid", "seed"), **dump(ATLAS.evaluation)),
        code=code_digest("workflow_scripts.atlas_evaluate"),
    shell:
        "python -m workflow_scripts.atlas_evaluate {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_leakage:
    """Compare the leakage of method fields into the latents of the model without and with adversaries."""
    input:
        studies=rules.atlas_studies.output.folder,
        checkpoint="results/atlas/runs/cvae/checkpoint",
        adversarial="results/atlas/runs/cvae_adversarial/checkpoint",
    output:
        out="results/atlas/tables/leakage.csv",
    log:
        "results/logs/atlas_leakage.log",
    benchmark:
        "results/benchmarks/atlas_leakage.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        files=files,
        cfg=as_json(n_permutations=ATLAS.evaluation.n_permutations, **dump(ATLAS, "grid", "seed")),
        code=code_digest("workflow_scripts.atlas_leakage"),
    shell:
        "python -m workflow_scripts.atlas_leakage {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule atlas_comparators:
    """Analyse topics by NiMARE: MKDA chi-square, ALE and CBMR, beside topic KDE."""
    input:
        folder=rules.atlas_studies.output.folder,
    output:
        out="results/atlas/tables/{comparators}.csv",
    log:
        "results/logs/atlas_comparators/{comparators}.log",
    benchmark:
        "results/benchmarks/atlas_comparators/{comparators}.tsv"
    wildcard_constraints:
        comparators="|".join(ATLAS_COMPARATORS),
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=150,
    params:
        files=files,
        cfg=lambda w: as_json(
            topics=ATLAS_COMPARATORS[w.comparators], most=ATLAS.comparators.most, **dump(ATLAS, "grid", "seed")
        ),
        code=code_digest("workflow_scripts.atlas_comparators"),
    shell:
        "python -m workflow_scripts.atlas_comparators {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


# Figure F2: the ladder in bits per focus.
use rule fig_1 as atlas_fig_2 with:
    input:
        results=rules.atlas_evaluate.output.out,
    output:
        pdf="results/atlas/figures/fig_2.pdf",
        png=in_report("results/atlas/figures/fig_2.png", "Atlas", figure="F2", shows="bits per focus"),
        facts="results/atlas/figures/fig_2.json",
    log:
        "results/logs/atlas_fig_2.log",
    benchmark:
        "results/benchmarks/atlas_fig_2.tsv"
    params:
        script="atlas_fig_2",
        files=files,
        cfg=as_json(study=cfg.study),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.atlas_fig_2"),


rule atlas_evaluation:
    """Target: everything that is measured on the atlas."""
    input:
        rules.atlas_baselines.output,
        rules.atlas_evaluate.output,
        expand(rules.atlas_comparators.output.out, comparators="comparators"),
        rules.atlas_fig_2.output,
    localrule: True


rule atlas_long:
    """Target: NiMARE for all topics, leakage without and with adversaries, ensemble of independent seeds."""
    input:
        expand(rules.atlas_comparators.output.out, comparators="comparators_long"),
        rules.atlas_leakage.output.out,
        rules.atlas_ensembles.output.out,
    localrule: True
