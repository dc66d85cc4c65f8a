"""FLAIR and lesion mask from one evaluation: a trained run fine-tuned on few pairs, its samples, what they are worth."""


rule joint:
    """Fine-tune the run of the study on pairs of image and mask; only adapters and added convolutions are trained."""
    input:
        model=rules.train.output.model.format(run=RUN),
        latents=rules.pair_latents.output.latents,
        strategy=rules.strategy.output.strategy,
    output:
        adapter="results/fcd/runs/{run}/adapter.safetensors",
        gaussian="results/fcd/runs/{run}/gaussian.safetensors",
        history="results/fcd/runs/{run}/history.csv",
        card="results/fcd/runs/{run}/card.json",
    log:
        "results/logs/joint/{run}.log",
    benchmark:
        "results/benchmarks/joint/{run}.tsv"
    priority: 5  # a chain of long jobs: shorter ones fit beside it
    conda:
        "../envs/neuromf.yaml"
    threads: half_the_cores()
    resources:
        mem_mb=8000,
        runtime=720,
    params:
        cfg=joint_values,
        code=code_digest("workflow_scripts.joint"),
    shell:
        "python -m workflow_scripts.joint --model {input.model:q} --latents {input.latents:q}"
        " --strategy {input.strategy:q} --config {params.cfg:q} --code {params.code:q}"
        " --adapter {output.adapter:q} --gaussian {output.gaussian:q} --history {output.history:q}"
        " --card {output.card:q} 2>&1 | tee {log:q}"


rule joint_samples:
    """Draw pairs of image and mask, one evaluation each."""
    input:
        model=rules.train.output.model.format(run=RUN),
        adapter=rules.joint.output.adapter,
        gaussian=rules.joint.output.gaussian,
        weights=rules.vae.output.weights,
        pairs=rules.pairs.output.pairs,
    output:
        folder=directory("results/fcd/samples/{run}"),
    log:
        "results/logs/joint_samples/{run}.log",
    benchmark:
        "results/benchmarks/joint_samples/{run}.tsv"
    priority: 5  # as joint
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        cfg=joint_samples_values(),
        code=code_digest("workflow_scripts.joint_samples"),
    shell:
        "python -m workflow_scripts.joint_samples --model {input.model:q} --adapter {input.adapter:q}"
        " --gaussian {input.gaussian:q} --weights {input.weights:q} --pairs {input.pairs:q}"
        " --config {params.cfg:q} --out {output.folder:q} 2>&1 | tee {log:q}"


rule joint_metrics:
    """Images, masks and their agreement, beside held-out real pairs."""
    input:
        samples=rules.joint_samples.output.folder,
        pairs=rules.pairs.output.pairs,
        volumes=rules.pairs.output.volumes,
        weights=rules.vae.output.weights,
    output:
        metrics="results/fcd/metrics/{run}.csv",
        lesions="results/fcd/lesions/{run}.csv",
    log:
        "results/logs/joint_metrics/{run}.log",
    benchmark:
        "results/benchmarks/joint_metrics/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        cfg=joint_metrics_values(),
        code=code_digest("workflow_scripts.joint_metrics"),
    shell:
        "python -m workflow_scripts.joint_metrics --samples {input.samples:q} --pairs {input.pairs:q}"
        " --weights {input.weights:q} --arm {wildcards.run} --config {params.cfg:q}"
        " --metrics {output.metrics:q} --lesions {output.lesions:q} 2>&1 | tee {log:q}"


rule segmentation:
    """Whether generated pairs help a small segmentation network to find held-out real lesions."""
    input:
        samples=rules.joint_samples.output.folder.format(run=JOINT),
        pairs=rules.pairs.output.pairs,
        volumes=rules.pairs.output.volumes,
    output:
        table="results/fcd/segmentation.csv",
    log:
        "results/logs/segmentation.log",
    benchmark:
        "results/benchmarks/segmentation.tsv"
    priority: 5  # as joint
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        cfg=segmentation_values(),
        arm=JOINT,
        code=code_digest("workflow_scripts.segmentation"),
    shell:
        "python -m workflow_scripts.segmentation --samples {input.samples:q} --pairs {input.pairs:q}"
        " --arm {params.arm:q} --config {params.cfg:q} --out {output.table:q} 2>&1 | tee {log:q}"


rule fig_7:
    """FLAIR with lesion masks, real and from one evaluation."""
    input:
        pairs=rules.pairs.output.pairs,
        volumes=rules.pairs.output.volumes,
        samples=rules.joint_samples.output.folder.format(run=JOINT),
        lesions=rules.joint_metrics.output.lesions.format(run=JOINT),
        metrics=rules.joint_metrics.output.metrics.format(run=JOINT),
    output:
        pdf="results/figures/fig_7.pdf",
        png=in_report(
            "results/figures/fig_7.png", "Figures", figure="7", shows="lesions"
        ),
        facts="results/figures/fig_7.json",
    log:
        "results/logs/fig_7.log",
    benchmark:
        "results/benchmarks/fig_7.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=lambda w: provenance("fcd"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_7"),
    shell:
        "python -m workflow_scripts.fig_7 --pairs {input.pairs:q} --samples {input.samples:q}"
        " --lesions {input.lesions:q} --metrics {input.metrics:q} --config {params.cfg:q} --out {params.stem:q}"
        " 2>&1 | tee {log:q}"


rule table_4:
    """Image and mask together: every setting, and held-out real pairs."""
    input:
        metrics=expand(rules.joint_metrics.output.metrics, run=JOINTS),
        cards=expand(rules.joint.output.card, run=JOINTS),
    output:
        tex="results/tables/table_4.tex",
        csv=in_report(
            "results/tables/table_4.csv", "Tables", table="4", shows="lesions"
        ),
        facts="results/tables/table_4.json",
    log:
        "results/logs/table_4.log",
    benchmark:
        "results/benchmarks/table_4.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        cfg=lambda w: provenance("fcd", arms=JOINT_ARMS, shown=["kid"]),
        stem=subpath(output.tex, strip_suffix=".tex"),
        code=code_digest("workflow_scripts.table_4"),
    shell:
        "python -m workflow_scripts.table_4 --metrics {input.metrics:q} --cards {input.cards:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule joints:
    """Target: all that is made of pairs, where the study has some."""
    input:
        []
        if cfg.fcd.source == "none"
        else [
            rules.fig_7.output.pdf,
            rules.table_4.output.tex,
            rules.segmentation.output.table if cfg.fcd.segmentation_steps else [],
        ],
    localrule: True
