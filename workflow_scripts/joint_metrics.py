"""Judge the pairs of a fine-tuned run against the training pairs, and held-out real pairs beside them."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.metrics import evaluation, lesions
from neuromf.metrics.distances.table import distances
from neuromf.metrics.features.registry import FeatureSet
from neuromf.vae import maisi, weights
from workflow_scripts._cli import arguments

logger = logging.getLogger(__name__)

COLUMNS = ["arm", "metric", "features", "n", "value", "low", "high"]
FEWEST = 4  # images of a set, below which its distance to another is not taken
FORM = {"index": False, "float_format": "%.6g"}


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "samples", "pairs", "weights", "arm:str", "config:json", "metrics", "lesions")
    net, table = weights.load(args.weights), read_table(args.pairs)
    train = read(table[table["split"] == "train"])
    sets = feature_sets(args.config["features"], net, train[0])
    known = evaluation.extract(sets, train[0])
    held, drawn = table[table["split"] != "train"], read_table(args.samples / "samples.tsv")
    rows, found = [], []
    for arm, listed in (("real", held), (args.arm, drawn)):
        images, masks = read(listed)
        judged, each = lesions.judge(images, masks, train, args.config["spacing_mm"], seed=args.config["seed"])
        again = {"n_boot": args.config["n_boot"], "seed": args.config["seed"]}
        away = [
            row
            for name, x in evaluation.extract(sets, images).items()
            if len(images) >= FEWEST
            for row in distances(known[name], x, name, **again)
        ]
        rows += [{"arm": arm, **row} for row in away + judged]
        found.append(each.assign(arm=arm, scan=listed["scan"].to_numpy()))
    pd.DataFrame(rows)[COLUMNS].to_csv(args.metrics, **FORM)
    pd.concat(found).to_csv(args.lesions, **FORM)


def feature_sets(specs: Sequence[dict], net: maisi.MAISIVAEWrapper, train: np.ndarray) -> list[FeatureSet]:
    """What distances of images are taken between; none where too few pairs are trained on to say what is usual."""
    if len(train) < FEWEST:
        logger.warning("%d training pairs: no distances of images, which need at least %d", len(train), FEWEST)
        return []
    return evaluation.open_sets(specs, vae=net, scale=evaluation.scale_of(specs, vae=net, people=train))


def read(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks (N, I, J, K) of a table of pairs."""
    images, masks = (read_volumes(table[name])[:, 0].float().numpy() for name in ("image", "mask"))
    return images, masks > 0.5


if __name__ == "__main__":
    main()
