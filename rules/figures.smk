"""Figures of the paper, each from files only: a changed figure trains nothing."""


rule fig_1:
    """The method at a glance, with this study's own brains in its boxes."""
    input:
        qc=rules.qc.output.table,
        latents=rules.stats.input.latents,
        stats=rules.stats.output.stats,
        samples=rules.sample.output.folder.format(run=RUN, steps=1),
    output:
        pdf="results/figures/fig_1.pdf",
        png=in_report(
            "results/figures/fig_1.png", "Figures", figure="1", shows="the method"
        ),
        facts="results/figures/fig_1.json",
    log:
        "results/logs/fig_1.log",
    benchmark:
        "results/benchmarks/fig_1.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=provenance("flow"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_1"),
    shell:
        "python -m workflow_scripts.fig_1 --qc {input.qc:q} --latents {input.latents:q}"
        " --stats {input.stats:q} --samples {input.samples:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule fig_2:
    """The torus: losses, one-step samples, angles, distances."""
    input:
        history=rules.torus.output.history,
        samples=rules.torus.output.samples,
        summary=rules.torus.output.summary,
    output:
        pdf="results/figures/fig_2.pdf",
        png=in_report(
            "results/figures/fig_2.png", "Figures", figure="2", shows="the torus"
        ),
        facts="results/figures/fig_2.json",
    log:
        "results/logs/fig_2.log",
    benchmark:
        "results/benchmarks/fig_2.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=provenance("torus"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_2"),
    shell:
        "python -m workflow_scripts.fig_2 --history {input.history:q} --samples {input.samples:q}"
        " --summary {input.summary:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule fig_3:
    """Real and generated brains in three planes."""
    input:
        qc=rules.qc.output.table,
        samples=expand(
            rules.sample.output.folder,
            run=RUN,
            steps=[1, max(cfg.samples.evaluations)],
        ),
        pairs=rules.measure.output.nearest.format(run=RUN),
    output:
        pdf="results/figures/fig_3.pdf",
        png=in_report(
            "results/figures/fig_3.png", "Figures", figure="3", shows="brains"
        ),
        facts="results/figures/fig_3.json",
    log:
        "results/logs/fig_3.log",
    benchmark:
        "results/benchmarks/fig_3.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=provenance("flow", "train"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_3"),
    shell:
        "python -m workflow_scripts.fig_3 --qc {input.qc:q} --samples {input.samples:q}"
        " --pairs {input.pairs:q} --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule dashboard:
    """The health of a training: raw losses, their ratio, the derivative, one-step samples, alarms."""
    input:
        history=rules.train.output.history,
        diagnostics=rules.train.output.diagnostics,
    output:
        pdf="results/figures/dashboard-{run}.pdf",
        png=in_report(
            "results/figures/dashboard-{run}.png",
            "Training",
            figure="dashboard",
            shows="{run}",
        ),
        facts="results/figures/dashboard-{run}.json",
    log:
        "results/logs/dashboard/{run}.log",
    benchmark:
        "results/benchmarks/dashboard/{run}.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=provenance("flow", "train"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.dashboard"),
    shell:
        "python -m workflow_scripts.dashboard --history {input.history:q} --diagnostics {input.diagnostics:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule fig_8:
    """Volumes of brain regions, real and generated."""
    input:
        regions=rules.measure.output.regional.format(run=RUN),
    output:
        pdf="results/figures/fig_8.pdf",
        png=in_report(
            "results/figures/fig_8.png", "Figures", figure="8", shows="regions"
        ),
        facts="results/figures/fig_8.json",
    log:
        "results/logs/fig_8.log",
    benchmark:
        "results/benchmarks/fig_8.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        cfg=provenance("metrics"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.fig_8"),
    shell:
        "python -m workflow_scripts.fig_8 --volumes {input.regions:q} --config {params.cfg:q}"
        " --out {params.stem:q} 2>&1 | tee {log:q}"


rule privacy:
    """The training heads nearest to generated ones, and whether membership in training can be told."""
    input:
        qc=rules.qc.output.table,
        samples=rules.sample.output.folder.format(run=RUN, steps=1),
    output:
        pdf="results/figures/privacy.pdf",
        png=in_report(
            "results/figures/privacy.png",
            "Figures",
            figure="privacy",
            shows="nearest training heads",
        ),
        facts="results/figures/privacy.json",
    log:
        "results/logs/privacy.log",
    benchmark:
        "results/benchmarks/privacy.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=10,
    params:
        cfg=privacy_values(),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.privacy"),
    shell:
        "python -m workflow_scripts.privacy --qc {input.qc:q} --samples {input.samples:q}"
        " --config {params.cfg:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule figures:
    """Target: every figure."""
    input:
        expand("results/figures/fig_{n}.pdf", n=[1, 2, 3, 8]),
        rules.contact.output.pdf,
        rules.latents.output.pdf,
        rules.privacy.output.pdf,
        rules.table_1.output.tex,
        rules.dashboard.output.pdf.format(run=RUN),
    localrule: True
