"""Compare generated with training heads in image space, and draw the closest pairs and the distances."""

from collections.abc import Sequence

import pandas as pd

from neuromf.data.nifti import read_volume, read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import of_split
from neuromf.figures import style
from neuromf.figures.privacy import privacy as figure
from neuromf.metrics import privacy
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "samples", "config:json", "out")
    cfg, qc = args.config, read_table(args.qc)
    train, test = of_split(qc, "train"), of_split(qc, "test")
    generated = read_table(args.samples / "samples.tsv")["file"].tolist()
    heads, unseen = (privacy.mirrored(read_volumes(files)[:, 0].float(), cfg["factor"]) for files in (train, test))
    fake = privacy.pooled(read_volumes(generated)[:, 0].float(), cfg["factor"])
    row, table = privacy.audit(fake, heads, unseen, seed=cfg["seed"])

    closest = privacy.closest_pairs(table, cfg["pairs"]).to_dict("records")
    pairs = [(read_volume(generated[p["index"]])[0], read_volume(train[p["train"]])[0]) for p in closest]
    pairs = [(ours, theirs[::-1] if p["view"] else theirs) for (ours, theirs), p in zip(pairs, closest, strict=True)]
    captions = [f"{p['relative']:.2f}" + (", mirrored" if p["view"] else "") for p in closest]
    fig = figure(pairs, captions, table, row, cfg["spacing_mm"])
    style.save(fig, args.out, cfg | {"audit": row, "closest": pd.DataFrame(closest).to_dict("list")})


if __name__ == "__main__":
    main()
