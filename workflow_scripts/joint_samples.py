"""Draw pairs of image and mask from a fine-tuned run."""

from collections.abc import Sequence

from neuromf.data.participants import read_table
from neuromf.lesions import sample
from neuromf.lesions.run import load_pair_run
from neuromf.meanflow.run import load_run
from neuromf.vae import weights
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "model", "adapter", "gaussian", "weights", "pairs", "config:json", "out")
    run = load_pair_run(load_run(args.model), args.adapter, args.gaussian)
    volumes = args.config.pop("threshold") == "volume"
    table = read_table(args.pairs)
    mean_ml = float(table.loc[table["split"] == "train", "lesion_ml"].astype(float).mean()) if volumes else None
    sample.write_pairs(run, weights.load(args.weights), args.out, mean_ml=mean_ml, **args.config)


if __name__ == "__main__":
    main()
