"""Train one run of the flow. Several GPUs divide each batch; `srun` starts the processes of several nodes."""

from collections.abc import Sequence

from neuromf.meanflow.diagnostics import TrainingAlarm
from neuromf.meanflow.train import train
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    inputs, machine = ("latents:paths", "stats", "qc"), ("gpus:int", "nodes:int", "memory_mb:int")
    args = arguments(__doc__, argv, *inputs, "config:json", *machine, "model", "history", "diagnostics", "card")
    resources = {"memory_mb": args.memory_mb, "devices": max(1, args.gpus // args.nodes), "num_nodes": args.nodes}
    files = {"latents": args.latents, "stats": args.stats, "qc": args.qc, "out": args.model.parent}
    try:
        train(**files, **args.config, **resources, code=args.code)
    except TrainingAlarm as alarm:
        raise SystemExit(str(alarm)) from alarm


if __name__ == "__main__":
    main()
