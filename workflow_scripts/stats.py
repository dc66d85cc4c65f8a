"""Statistics of the training latents, and what some stored latents of held-out people decode to."""

import json
from collections.abc import Sequence

from neuromf import latents, vae
from neuromf.cohort import read_table
from neuromf.metrics.similarity import ssim
from neuromf.volumes import read_volumes
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "latents:paths", "qc", "weights", "config:json", "out")
    table = read_table(args.qc).set_index("scan")
    shards = latents.load_shards(args.latents)
    train = latents.of_split(shards, table["split"], "train")
    test = latents.of_split(shards, table["split"], "test")
    n = args.config["n_validated"]
    decoded = latents.decode(vae.load(args.weights), test["mean"][:n])
    volumes = read_volumes(table.loc[test["scans"][:n], "volume"])[:, 0].float().numpy()
    report = {
        **latents.statistics(train["mean"], train["std"]),
        "encoded": len(shards["scans"]),
        "finite": bool(shards["mean"].isfinite().all() and shards["std"].isfinite().all()),
        "shapes": sorted({str(list(mean.shape)) for mean in shards["mean"]}),
        "roundtrip_ssim": ssim(volumes, decoded.numpy()).tolist(),
    }
    args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
