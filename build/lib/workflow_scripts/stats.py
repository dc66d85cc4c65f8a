"""Statistics of the training latents, what stored latents of held-out people decode to, and what a flip costs."""

import json
from collections.abc import Sequence

from neuromf import latents, vae
from neuromf.cohort import read_table
from neuromf.metrics import roundtrip
from neuromf.metrics.similarity import ssim
from neuromf.volumes import read_volumes
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "latents:paths", "qc", "weights", "config:json", "out")
    table, n = read_table(args.qc).set_index("scan"), args.config["n_validated"]
    train = latents.load_split(args.latents, table["split"], "train")
    test = latents.load_split(args.latents, table["split"], "test")
    net, stats = vae.load(args.weights), latents.statistics(train["mean"], train["std"])
    decoded = latents.decode(net, test["mean"][:n], precision=args.config["precision"])
    volumes = read_volumes(table.loc[test["scans"][:n], "volume"]).float()
    report = {
        **stats,
        **latents.census(args.latents),
        "roundtrip_ssim": ssim(volumes[:, 0].numpy(), decoded.numpy()).tolist(),
        **roundtrip.flip_error(net.encode, net.decode, volumes, stats["std"]),
    }
    args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
