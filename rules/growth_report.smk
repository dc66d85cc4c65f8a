"""Model card and page of the growth system."""

# Files that card and page read; the report page reads those that exist.
GROWTH_ABOUT = {
    "study": cfg.study,
    "scale": GROWTH.scale,
    "simulated": GROWTH.statement(),
    "spacing_mm": GROWTH.index_values()["spacing"][0],
    "code": code_digest("workflow_scripts.growth_train"),
}
GROWTH_FIGURES = [
    *[f"fig_{k}" for k in range(1, 5)],
    *["fig_5", "headline"] * GROWTH_SIMULATED,
    *["fig_6"] * bool(real_volumes()),
]
GROWTH_REPORTED = [
    *expand("results/growth/figures/{name}.{suffix}", name=GROWTH_FIGURES, suffix=["png", "json"]),
    *expand("results/growth/index/{name}.csv", name=["train", "val", "test"]),
    *expand("results/growth/gates/{experiment}.json", experiment=EXPERIMENTS),
    *expand("results/growth/runs/{experiment}/provenance.json", experiment=EXPERIMENTS),
    *expand("results/growth/disentanglement/{experiment}.json", experiment=EXPERIMENTS),
    *expand(
        "results/growth/ladder/{name}/{file}",
        name=["gompertz", "treated", *["volume_latent"] * GROWTH_SIMULATED, *["real"] * bool(real_volumes())],
        file=["scores.csv", "study.json"],
    ),
    "results/growth/tables/disentanglement.csv",
    *["results/growth/tables/latent_forecast.csv", "results/growth/forecast/images.json"] * GROWTH_SIMULATED,
]


rule growth_card:
    """Write the model card of the growth system; every number is looked up in the results."""
    input:
        inputs=GROWTH_REPORTED,
    output:
        page="results/growth/model_card.md",
        out="results/growth/model_card.json",
    log:
        "results/logs/growth_card.log",
    benchmark:
        "results/benchmarks/growth_card.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        files=files,
        cfg=as_json(**GROWTH_ABOUT),
        templates=files_digest("neuromf/report/growth/templates"),
        code=code_digest("workflow_scripts.growth_card"),
    shell:
        "python -m workflow_scripts.growth_card {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"


rule growth_report:
    """Write the growth page: verdicts, figures, tables and model card; the report page has the same as a section."""
    input:
        inputs=GROWTH_REPORTED,
    output:
        out="results/growth/report.html",
    log:
        "results/logs/growth_report.log",
    benchmark:
        "results/benchmarks/growth_report.tsv"
    conda:
        "../envs/neuromf.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        files=files,
        cfg=as_json(**GROWTH_ABOUT),
        templates=files_digest("neuromf/report/page/templates"),
        code=code_digest("workflow_scripts.growth_report"),
    shell:
        "python -m workflow_scripts.growth_report {params.files} --config {params.cfg:q} 2>&1 | tee {log:q}"
