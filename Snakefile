"""neuromf: from raw heads to figures. `snakemake --cores all` rebuilds whatever is stale."""

import os
import sys

from snakemake.utils import min_version

from neuromf.config.study import BASE, read_config
from neuromf.workflow.runs import plan
from neuromf.workflow.stale import left_behind

min_version("9.20")
# Memory of volumes is kept by a job between two uses; asking the system for it anew takes threads a tenth of their time.
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
os.environ |= KEPT | os.environ  # a user's own values stand


configfile: f"{workflow.basedir}/config.yaml"


cfg = read_config(config)
# the run that figures and gates are about, all that are made, and the arms they serve
RUN, (RUNS, ARMS) = BASE, plan(cfg)


include: "rules/common.smk"
include: "rules/common_ablations.smk"
include: "rules/common_lesions.smk"
include: "rules/common_report.smk"
include: "rules/fetch.smk"
include: "rules/cohort.smk"
include: "rules/volumes.smk"
include: "rules/vae.smk"
include: "rules/latents.smk"
include: "rules/fcd.smk"
include: "rules/torus.smk"
include: "rules/train.smk"
include: "rules/joint.smk"
include: "rules/samples.smk"
include: "rules/metrics.smk"
include: "rules/ablations.smk"
include: "rules/bench.smk"
include: "rules/gates.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/report.smk"
include: "rules/export.smk"
include: "rules/paper.smk"


rule all:
    """Every artefact of the study."""
    default_target: True
    input:
        rules.figures.input,
        rules.gates.input,
        rules.metrics.output.table,
        rules.ablations.input,
        rules.joints.input,
        rules.report.output.page.format(part=""),
        rules.export.output,
        paper_made(),


localrules:
    all,


onsuccess:
    if n := left_behind(log, sys.argv[1:]):
        logger.warning(
            f"gates were judged, and {n} jobs behind them are stale for other reasons: run the same again"
        )
