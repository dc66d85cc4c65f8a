"""Pack a run for others: weights as safetensors, settings, terms and the model card, in one folder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from neuromf.core.files import atomic_write
from neuromf.meanflow.run import load_run
from neuromf.report.release import model_card, package
from neuromf.report.results import Results
from neuromf.vae import maisi, weights
from workflow_scripts._cli import arguments

TOLD = ("study", "source", "spacing_mm", "evaluations", "n_samples", "sampling", "threads")  # in the card as they are


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "results", "config:json", "out")
    cfg, run, autoencoder = args.config, load_run(args.model), weights.load(args.weights)
    net = torch.load(args.model, map_location="cpu", weights_only=True)["net"]
    results = Results(args.results, cfg["run"])
    training = results.card()
    made_by = {
        "study": cfg["study"],
        "run": cfg["run"],
        "code": args.code,
        "versions": training.get("versions", {}),
        "training": training.get("config", {}),
    }
    terms = package.terms(cfg["vae"], args.weights)
    package.pack(run, net, autoencoder, args.out, decoder=terms, sampling=cfg["sampling"], made_by=made_by)

    told = {name: cfg[name] for name in TOLD}
    told |= {"decoder": terms, "shape": [maisi.DOWNSAMPLING * n for n in run.shape[1:]], "code": args.code}
    about = model_card.card(results, about=told, phases=cfg["phases"])
    package.write_json(about, args.out / "card.json")
    write(model_card.markdown(about, package.EXAMPLE), args.out / "README.md")
    write(model_card.licence(about), args.out / "LICENSE.md")


def write(text: str, path: Path) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
