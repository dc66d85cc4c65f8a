"""Train one run of the flow; its EMA weights, its history, and a card that says what made it."""

import json
from collections.abc import Sequence

from neuromf import fitting, generate, latents
from neuromf.cohort import read_table
from neuromf.training import FlowStudy
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "latents:paths", "stats", "qc", "config:json", "model", "history", "card")
    config = args.config
    stats = latents.read_stats(args.stats)
    data = latents.training_set(args.latents, read_table(args.qc).set_index("scan")["split"], stats)
    settings = {**config["flow"], **config["train"]}
    prediction = settings.pop("prediction")
    running = {name: settings.pop(name) for name in ("checkpoint_every", "precision", "clip", "accumulate")}
    u = generate.build(config["net"], prediction, mean=data.mean(0), seed=settings["seed"])
    study = FlowStudy(u, data, **settings)
    fitting.fit(study, checkpoint=args.model.parent / "ckpt" / "last.ckpt", **running)
    generate.save_run(args.model, study.ema.net, online=u, early=study.early, net=config["net"], stats=stats)
    fitting.write_history(study, args.history)
    card = fitting.card(study, config, {"stats": str(args.stats), "n_latents": len(data)})
    args.card.write_text(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
