"""Fine-tune a trained run on pairs of image and mask: its adapter, the Gaussian it starts from, history and card."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from neuromf.lesions import finetune, network, prior
from neuromf.lesions.run import save_pair_run
from neuromf.meanflow.run import load_run
from neuromf.nn import lora
from neuromf.training import checkpoints, run_record, trainer
from workflow_scripts._cli import arguments

WARMUP = 0.05  # share of the steps
FLOW = ("times", "tangent", "derivative", "adaptive_power", "adaptive_c", "adaptive_over")  # taken over from the run
TRAIN = ("weight_decay", "lr_end", "ema_images")


def main(argv: Sequence[str] | None = None) -> None:
    files = ("adapter", "gaussian", "history", "card")
    args = arguments(__doc__, argv, "model", "latents:paths", "strategy", "config:json", *files)
    tune, injected = args.config["finetune"], args.config["adapter"]
    path = latents_of(args.latents, args.config["strategy"], args.strategy)
    pairs, run = finetune.read_pairs(path), load_run(args.model)
    x = pairs.of("train", copies=True)
    base = prior.fit_pair_prior(
        run.u.prior, x, **{name: tune[name] for name in ("refit", "axes", "loose", "mask_residual_variance")}
    )
    u = network.add_adapters(run.u, x.shape[1], prior=base, seed=tune["seed"], **injected)
    epoch = math.ceil(len(x) / tune["batch"])
    study = finetune.PairModule(u, x, pairs.of("val"), look_every=epoch, **settings(args.config, epoch, x.shape[1]))
    before = study.before()
    made_by = json.dumps([args.config, args.code, *map(digest, (args.model, path))], sort_keys=True)
    running = {name: args.config["train"][name] for name in ("checkpoint_every", "precision", "clip")}
    checkpoint = args.adapter.parent / "ckpt" / "last.ckpt"
    trainer.fit(study, checkpoint=checkpoint, made_by=made_by, keep=True, **running)
    save_pair_run(study.chosen(), args.adapter, args.gaussian, stats=pairs.stats, **injected)
    run_record.write_rows([before, *study.history], args.history)
    args.card.write_text(
        json.dumps(card(study, u, args.config, {"latents": str(path), "strategy": path.stem, "n": len(x)}), indent=1)
    )
    checkpoints.delete_checkpoints(checkpoint)


def latents_of(paths: Sequence[Path], strategy: str, decided: Path) -> Path:
    """The file of latents of a mask strategy; auto is the one that was decided."""
    wanted = json.loads(decided.read_text())["strategy"] if strategy == "auto" else strategy
    found = [path for path in paths if path.stem == wanted]
    if not found:
        raise ValueError(f"no latents of strategy {wanted}; there are {', '.join(path.stem for path in paths)}")
    return found[0]


def settings(config: dict, epoch: int, channels: int) -> dict:
    """Arguments of the study: exponents by channel, steps from epochs, the rest as the run was trained."""
    tune = config["finetune"]
    steps = tune["epochs"] * epoch
    return {
        "p": prior.per_channel((tune["p_image"], tune["p_mask"]), channels),
        "channel_weights": prior.per_channel((1.0, tune["mask_weight"]), channels),
        "steps": steps,
        "warmup": math.ceil(WARMUP * steps),
        **{name: tune[name] for name in ("batch", "lr", "patience", "seed")},
        **{name: config["flow"][name] for name in FLOW},
        **{name: config["train"][name] for name in TRAIN},
    }


def card(study: finetune.PairModule, u: nn.Module, config: dict, data: dict) -> dict:
    """What made the run, how much of the model it trains, and where it stopped."""
    trainable, total = lora.count_trainable_params(u)
    adapters = sum(p.numel() for name, p in u.named_parameters() if "lora_" in name)
    share = {"trainable": trainable, "total": total, "lora": adapters, "lora_share": adapters / total}
    best = {"best_step": study.best["step"], "best_held": study.best["held"], "stopped_at": study.steps}
    return {**run_record.run_record(study, config, data), **share, **best}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
