"""Compute the metrics of one run at every number of network evaluations."""

from collections.abc import Sequence

from threadpoolctl import threadpool_limits

from neuromf.data.participants import read_table
from neuromf.meanflow.baselines import baseline_latents
from neuromf.metrics.evaluation import evaluate_run
from workflow_scripts._cli import arguments


@threadpool_limits.wrap(limits=1)
def main(argv: Sequence[str] | None = None) -> None:
    inputs = ("samples:paths", "model", "real_features", "regions", "qc", "weights", "run:str", "config:json")
    outputs = ("metrics", "spectra", "nearest", "regional", "privacy")
    args = arguments(__doc__, argv, *inputs, *outputs)
    files = {
        name: getattr(args, name) for name in ("samples", "real_features", "regions", "qc", "weights", "run", *outputs)
    }
    sampler, listed = args.config.pop("sampler"), read_table(args.samples[-1] / "samples.tsv")
    draw = {"n": len(listed), "seed": int(listed["seed"].iloc[0]), "sampler": sampler}
    baselines = baseline_latents(args.model, **draw) if args.config["in_depth"] else None
    evaluate_run(**files, baselines=baselines, **args.config)


if __name__ == "__main__":
    main()
