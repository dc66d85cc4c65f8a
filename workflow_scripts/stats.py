"""Statistics of the training latents, what stored latents of held-out people decode to, and what a flip costs."""

import json
from collections.abc import Sequence

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.metrics.images import reconstruction
from neuromf.metrics.images.similarity import ssim
from neuromf.vae import latents, shards, statistics, weights
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "latents:paths", "qc", "weights", "config:json", "out")
    table, n = read_table(args.qc).set_index("scan"), args.config["n_validated"]
    train = shards.load_split(args.latents, table["split"], "train")
    test = shards.load_split(args.latents, table["split"], "test")
    net, stats = weights.load(args.weights), statistics.statistics(train["mean"], train["std"])
    decoded = latents.decode(net, test["mean"][:n], precision=args.config["precision"])
    volumes = read_volumes(table.loc[test["scans"][:n], "volume"]).float()
    report = {
        **stats,
        **shards.check_shards(args.latents),
        "roundtrip_ssim": ssim(volumes[:, 0].numpy(), decoded.numpy()).tolist(),
        **reconstruction.flip_error(net.encode, net.decode, volumes, stats["std"]),
    }
    args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
