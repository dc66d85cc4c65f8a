"""Forecasts of growth: the ladder of models on simulated volumes, real volumes and latents; figures F4 and F6."""

from neuromf.config.growth_forecast import simulated_ladder

LADDER = simulated_ladder(GROWTH.scale, GROWTH.ladder, GROWTH.ode)


rule growth_ladder:
    """Fit all models on simulated volumes, forecast test patients, and compare the models."""
    output:
        scores="results/growth/ladder/{growth_model}/scores.csv",
        after=expand(
            "results/growth/ladder/{{growth_model}}/{name}",
            name=["forecasts.csv", "study.json", "volumes.tsv"],
        ),
    log:
        "results/logs/growth_ladder/{growth_model}.log",
    benchmark:
        "results/benchmarks/growth_ladder/{growth_model}.tsv"
    wildcard_constraints:
        growth_model="gompertz|logistic|treated",
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        folder=subpath(output.scores, parent=True),
        cfg=lambda w: as_json(growth_model=w.growth_model, **LADDER),
        code=code_digest("workflow_scripts.growth_ladder"),
    shell:
        "python -m workflow_scripts.growth_ladder --out {params.folder:q} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule growth_real_ladder:
    """Fit the models on real lesion volumes, in 10 folds by patient, and compare them."""
    input:
        table=real_volumes() or [],
    output:
        scores="results/growth/ladder/real/scores.csv",
        after=expand("results/growth/ladder/real/{name}", name=["forecasts.csv", "study.json"]),
    log:
        "results/logs/growth_real_ladder.log",
    benchmark:
        "results/benchmarks/growth_real_ladder.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        files=inputs,
        folder=subpath(output.scores, parent=True),
        cfg=as_json(seed=GROWTH.ladder.seed, models=GROWTH.ladder.real_models, ode=LADDER["ode"]),
        code=code_digest("workflow_scripts.growth_real_ladder"),
    shell:
        "python -m workflow_scripts.growth_real_ladder {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule growth_latent_ladder:
    """Fit the models on states from latents of images, and forecast the latents of test patients."""
    input:
        latents="results/growth/latents/exp3.npz",
    output:
        scores="results/growth/ladder/latents/scores.csv",
        after=expand("results/growth/ladder/latents/{name}", name=["forecasts.csv", "study.json", "latents.npz"]),
    log:
        "results/logs/growth_latent_ladder.log",
    benchmark:
        "results/benchmarks/growth_latent_ladder.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        files=lambda w, input: command_line(input, {"trajectories": f"{GROWTH_ROOT}/trajectories.tsv"}),
        folder=subpath(output.scores, parent=True),
        cfg=as_json(**dump(GROWTH.data, "modalities"), models=LADDER["models"], ode=LADDER["ode"]),
        code=code_digest("workflow_scripts.growth_latent_ladder"),
    shell:
        "python -m workflow_scripts.growth_latent_ladder {params.files} --out {params.folder:q} --config {params.cfg:q}"
        " 2>&1 | tee {log:q}"


rule growth_latent_forecast:
    """Fit models on the volume latent of experiment 3, and forecast the latents of test patients."""
    input:
        latents="results/growth/latents/exp3.npz",
        reference=rules.growth_ladder.output.scores.format(growth_model="gompertz"),
    output:
        scores="results/growth/ladder/volume_latent/scores.csv",
        after=expand("results/growth/ladder/volume_latent/{name}", name=["forecasts.csv", "study.json", "latents.npz"]),
        table="results/growth/tables/latent_forecast.csv",
    log:
        "results/logs/growth_latent_forecast.log",
    benchmark:
        "results/benchmarks/growth_latent_forecast.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        files=lambda w, input, output: command_line(input, {"table": output.table}),
        folder=subpath(output.scores, parent=True),
        cfg=as_json(**dump(GROWTH.data, "modalities"), models=GROWTH.ladder.latent_models, ode=LADDER["ode"]),
        code=code_digest("workflow_scripts.growth_latent_forecast"),
    shell:
        "python -m workflow_scripts.growth_latent_forecast {params.files} --out {params.folder:q}"
        " --config {params.cfg:q} 2>&1 | tee {log:q}"


# Figure F4, and the scalar half of the headline plate: forecasts and scores on simulated volumes.
use rule fig_1 as growth_fig_4 with:
    input:
        after=[
            *expand(rules.growth_ladder.output.scores, growth_model=["gompertz", "treated"]),
            *expand(rules.growth_ladder.output.after, growth_model=["gompertz", "treated"]),
        ],
    output:
        pdf="results/growth/figures/fig_4.pdf",
        png=in_report("results/growth/figures/fig_4.png", "Growth", figure="F4", shows="forecasts of the volume"),
        facts="results/growth/figures/fig_4.json",
    log:
        "results/logs/growth_fig_4.log",
    benchmark:
        "results/benchmarks/growth_fig_4.tsv"
    params:
        script="growth_fig_4",
        files=lambda w, input: command_line({"tables": [os.path.dirname(path) for path in input.after[:2]]}),
        cfg=as_json(study=cfg.study, values=LADDER, simulated="Simulated volumes"),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.growth_fig_4"),


# Figure F5: the decoded image of the last visit beside the truth.
use rule fig_1 as growth_fig_5 with:
    input:
        table="results/growth/forecast/images.csv",
        examples="results/growth/forecast/images.npz",
        verdict="results/growth/forecast/images.json",
    output:
        pdf="results/growth/figures/fig_5.pdf",
        png=in_report("results/growth/figures/fig_5.png", "Growth", figure="F5", shows="decoded future images"),
        facts="results/growth/figures/fig_5.json",
    log:
        "results/logs/growth_fig_5.log",
    benchmark:
        "results/benchmarks/growth_fig_5.tsv"
    params:
        script="growth_fig_5",
        files=inputs,
        cfg=as_json(study=cfg.study, simulated=GROWTH.statement()),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.growth_fig_5"),


# The headline plate: figures F4 and F5.
use rule fig_1 as growth_headline with:
    input:
        **rules.growth_fig_5.input,
        after=rules.growth_fig_4.input.after,
    output:
        pdf="results/growth/figures/headline.pdf",
        png=in_report("results/growth/figures/headline.png", "Growth", figure="headline", shows="volumes and images"),
        facts="results/growth/figures/headline.json",
    log:
        "results/logs/growth_headline.log",
    benchmark:
        "results/benchmarks/growth_headline.tsv"
    params:
        script="growth_headline",
        files=lambda w, input: command_line(
            {"tables": [os.path.dirname(path) for path in input.after[:2]]},
            {name: input[name] for name in ("table", "examples", "verdict")},
        ),
        cfg=as_json(study=cfg.study, simulated=GROWTH.statement()),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.growth_headline"),


# Figure F6: the ladder on real volumes.
use rule fig_1 as growth_fig_6 with:
    input:
        after=[rules.growth_real_ladder.output.scores, *rules.growth_real_ladder.output.after],
    output:
        pdf="results/growth/figures/fig_6.pdf",
        png=in_report("results/growth/figures/fig_6.png", "Growth", figure="F6", shows="the ladder on real volumes"),
        facts="results/growth/figures/fig_6.json",
    log:
        "results/logs/growth_fig_6.log",
    benchmark:
        "results/benchmarks/growth_fig_6.tsv"
    params:
        script="growth_fig_6",
        files=lambda w, input: command_line({"folder": os.path.dirname(input.after[0])}),
        cfg=as_json(study=cfg.study, values=GROWTH.ladder.model_dump(mode="json")),
        stem=subpath(output.pdf, strip_suffix=".pdf"),
        code=code_digest("workflow_scripts.growth_fig_6"),


rule growth_forecast:
    """Target: forecasts of the volume, and their figures."""
    input:
        rules.growth_fig_4.output,
        [rules.growth_fig_5.output, rules.growth_headline.output] if GROWTH_SIMULATED else [],  # scans with dates
        rules.growth_fig_6.output if real_volumes() else [],
    localrule: True
