"""Pack a run for others: weights as safetensors, settings, terms and the model card, in one folder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from neuromf import card, export, generate, vae
from neuromf.files import whole
from neuromf.report.results import Results
from workflow_scripts._cli import arguments

TOLD = ("study", "source", "spacing_mm", "evaluations", "n_samples", "sampling", "threads")  # in the card as they are


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "weights", "results", "config:json", "out")
    cfg, run, autoencoder = args.config, generate.load_run(args.model), vae.load(args.weights)
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
    terms = export.terms(cfg["vae"], args.weights)
    export.pack(run, net, autoencoder, args.out, decoder=terms, sampling=cfg["sampling"], made_by=made_by)

    told = {name: cfg[name] for name in TOLD}
    told |= {"decoder": terms, "shape": [vae.DOWNSAMPLING * n for n in run.shape[1:]], "code": args.code}
    about = card.card(results, about=told, phases=cfg["phases"])
    export.write_json(about, args.out / "card.json")
    write(card.markdown(about, export.EXAMPLE), args.out / "README.md")
    write(card.licence(about), args.out / "LICENSE.md")


def write(text: str, path: Path) -> None:
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
