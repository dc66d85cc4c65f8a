"""neuromf: from scans to figures. `snakemake --cores all` rebuilds whatever is stale."""

import os
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from neuromf.config.study import BASE, read_config
from neuromf.workflow.cards import reason_for_refusal
from neuromf.workflow.stale import count_stale_jobs

min_version("9.20")
# Memory that a job frees is reused by it; returning it to the system costs threads a tenth of their time.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
os.environ |= MALLOC | os.environ  # values set by the user have priority


configfile: f"{workflow.basedir}/config.yaml"


cfg = read_config(config)
RUN = BASE  # the run of figures and gates


include: "rules/common.smk"
include: "rules/download.smk"
include: "rules/cohort.smk"
include: "rules/autoencoder.smk"
include: "rules/meanflow.smk"
include: "rules/evaluation.smk"
include: "rules/ablations.smk"
include: "rules/lesions.smk"
include: "rules/benchmarks.smk"
include: "rules/figures.smk"
include: "rules/growth.smk"
include: "rules/growth_forecast.smk"
include: "rules/atlas.smk"
include: "rules/atlas_models.smk"
include: "rules/atlas_points.smk"
include: "rules/atlas_uncertainty.smk"
include: "rules/atlas_evaluation.smk"
include: "rules/atlas_release.smk"
include: "rules/tables.smk"
include: "rules/growth_report.smk"
include: "rules/report.smk"
include: "rules/gates.smk"
include: "rules/release.smk"


rule all:
    """Every artefact of the study."""
    default_target: True
    input:
        rules.figures.input,
        rules.gates.input,
        rules.merge_metrics.output.out,
        rules.ablations.input,
        rules.lesions.input,
        rules.report.output.out.format(part=""),
        rules.export.output,
        paper_files(),


localrules:
    all,


onstart:
    main = as_json(study=cfg.study, runs={RUN: dump(cfg.meanflow, *SECTIONS)}, shape=cfg.volumes.shape)
    if reason := reason_for_refusal(main):
        raise WorkflowError(reason)


onsuccess:
    if n := count_stale_jobs(log, sys.argv[1:]):
        logger.warning(f"gates were evaluated, and {n} jobs behind them are stale: run the same command again")
