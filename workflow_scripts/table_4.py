"""Write table 4, image and mask together by setting, from the metrics and cards of all arms."""

import json
from collections.abc import Sequence

import pandas as pd

from neuromf.report.tables import style
from neuromf.report.tables.lesions import table_4
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "metrics:paths", "cards:paths", "config:json", "out")
    metrics = pd.concat([pd.read_csv(path, keep_default_na=True) for path in args.metrics], ignore_index=True)
    cards = {path.parent.name: json.loads(path.read_text()) for path in args.cards}
    settings = {arm: {"run": run, **about(cards[run])} for arm, run in args.config["arms"].items()}
    table, columns, notes = table_4(metrics, settings, shown=args.config["shown"])
    style.save(table, columns, args.out, args.config, notes)


def about(card: dict) -> dict:
    """What an arm is, in the words of the table."""
    tune = card["config"]["finetune"]
    return {
        "strategy": card["data"]["strategy"],
        "p": f"{tune['p_image']:g}, {tune['p_mask']:g}",
        "targets": card["config"]["adapter"]["targets"],
        "trainable": card["trainable"] / card["total"],
    }


if __name__ == "__main__":
    main()
