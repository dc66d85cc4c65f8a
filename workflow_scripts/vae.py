"""The frozen autoencoder of the study: stored weights as they are, or trained on its own training people."""

import hashlib
import json
from collections.abc import Sequence

from neuromf.data.nifti import read_volumes
from neuromf.data.participants import read_table
from neuromf.data.preprocessing import of_split
from neuromf.training import checkpoints, run_record, trainer
from neuromf.vae import maisi, weights
from neuromf.vae.train import AutoencoderModule, standardise
from workflow_scripts._cli import arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, "qc", "config:json", "out")
    settings = dict(args.config)
    architecture = maisi.ARCHITECTURES[settings.pop("architecture")]
    stored = weights.resolve_weights(settings.pop("weights"), settings.pop("sha256"))
    checkpoint = args.out.parent / "ckpt" / "vae.ckpt"
    net = weights.build_autoencoder(architecture, stored, seed=settings["seed"])
    if settings["steps"]:
        volumes = read_volumes(of_split(read_table(args.qc), "train"))
        precision = settings.pop("precision")
        study = AutoencoderModule(net, volumes, **settings)
        people = hashlib.sha256(args.qc.read_bytes()).hexdigest()
        made_by = json.dumps([args.config, args.code, people], sort_keys=True)
        trainer.fit(study, checkpoint=checkpoint, made_by=made_by, keep=True, precision=precision)
        run_record.write_rows(study.history, args.out.with_name("history.csv"))
        standardise(net.eval().requires_grad_(False), volumes)
    weights.save_weights(net, args.out)
    checkpoints.delete_checkpoints(checkpoint)


if __name__ == "__main__":
    main()
