"""Fine-tuning of a trained MeanFlow run on few image-mask pairs, so that it generates image and mask together.

The network of the run is widened to the channels of pairs, and only LoRA adapters and the added convolutions are
trained. Training starts from a Gaussian prior of the pairs, because FLAIR differs from T1. Validation pairs, at fixed
times and noise, decide which weights are final (the initial weights included) and when training stops.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromf.core.files import sha256, write_json
from neuromf.core.seeds import generator
from neuromf.lesions.network import add_adapters
from neuromf.lesions.prior import fit_pair_prior, per_channel
from neuromf.lesions.run import load_pair_run, save_pair_run
from neuromf.meanflow import flow
from neuromf.meanflow.module import MeanFlowModule
from neuromf.meanflow.run import Run, load_run
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import lora
from neuromf.training import checkpoints, run_record, trainer
from neuromf.vae.maisi import LATENT_CHANNELS
from neuromf.vae.statistics import normalise

logger = logging.getLogger(__name__)

DRAWS = 4  # fixed times and noise fields per validation pair
WARMUP = 0.05  # fraction of the steps
TRAINER = ("checkpoint_every", "precision", "clip")  # keys of `train` for the trainer; the others are for the module


def finetune(
    *,
    run: Path,
    latents: Path,
    mask_encoding: str,
    adapter: Mapping[str, Any],
    prior: Mapping[str, Any],
    finetune: Mapping[str, Any],
    flow: Mapping[str, Any],
    train: Mapping[str, Any],
    out: Path,
    code: str = "",
) -> Run:
    """Fine-tune a trained run on pairs. Writes adapter, prior, history.csv and card.json into the folder `out`.

    Arguments:
        run: Model file of the base run.
        latents: Folder of `pair_latents.encode_pairs`.
        mask_encoding: Encoding of masks: vae, distance, downsample or level.
        adapter: Arguments rank, alpha and targets of `network.add_adapters`.
        prior: Arguments kind, axes, gaussian_fraction and mask_residual_variance of `prior.fit_pair_prior`.
        finetune: epochs, batch, lr, p_image, p_mask, mask_weight, patience and seed.
        flow: Flow settings of the base run: times, tangent, derivative, adaptive_power and adaptive_c.
        train: Training settings of the base run: weight_decay, lr_end, ema_images, checkpoint_every, precision, clip.
        code: Digest of the code. An interrupted training resumes only with the same settings, data and code.

    Returns:
        The fine-tuned run.
    """
    path, base = latents / f"{mask_encoding}.npz", load_run(run)
    x, validation, stats = read_pair_latents(path)
    pair_prior = fit_pair_prior(base.u.prior, x, **prior)
    u = add_adapters(base.u, x.shape[1], prior=pair_prior, seed=finetune["seed"], **adapter)
    module = PairModule(u, x, validation, **module_settings(x, finetune, flow, train))
    initial = {"step": 0, **module.evaluate()}
    config = {"mask_encoding": mask_encoding, "adapter": adapter, "prior": prior, "finetune": finetune}
    config |= {"flow": flow, "train": train}
    provenance = json.dumps([config, code, sha256(run), sha256(path)], sort_keys=True)
    checkpoint = out / "ckpt" / "last.ckpt"
    settings = {name: train[name] for name in TRAINER}
    trainer.fit(module, checkpoint=checkpoint, provenance=provenance, keep_checkpoint=True, **settings)
    save_pair_run(module.best_network(), out, stats=stats, **adapter)
    run_record.write_rows([initial, *module.history], out / "history.csv")
    data = {"latents": str(path), "mask_encoding": mask_encoding, "n": len(x)}
    write_json(out / "card.json", {**run_record.run_record(module, config, data), **summary(module)})
    checkpoints.delete_checkpoints(checkpoint)
    return load_pair_run(base, out)


def read_pair_latents(path: Path) -> tuple[Tensor, Tensor, dict]:
    """Normalised latents (N, C, I, J, K) of training pairs, with augmented versions, and of validation pairs.

    Returns:
        Training pairs, validation pairs, and the latent statistics with the shape (C, I, J, K) of a pair.

    Raises:
        ValueError: If there is no training pair, or a value is not finite.
    """
    with np.load(path) as file:
        x, split, stats = file["x"], file["split"], json.loads(str(file["stats"]))
    if "train" not in split:
        raise ValueError(f"{path} has no training pair, only {sorted(set(split.tolist()))}; see lesions.split")
    if not np.isfinite(x).all():
        raise ValueError(
            f"{path} has {int((~np.isfinite(x)).sum())} values that are not finite; encode the pairs again"
        )
    normalised = normalise(torch.from_numpy(x).float(), stats)
    train, validation = (normalised[torch.from_numpy(split == name)] for name in ("train", "val"))
    return train, validation, {**stats, "shape": list(x.shape[1:])}


def module_settings(x: Tensor, finetune: Mapping[str, Any], flow: Mapping[str, Any], train: Mapping[str, Any]) -> dict:
    """Arguments of `PairModule` for training pairs x: exponents and weights by channel, epochs as steps."""
    channels, epoch = x.shape[1], math.ceil(len(x) / finetune["batch"])
    steps = finetune["epochs"] * epoch
    return {
        "p": per_channel(finetune["p_image"], finetune["p_mask"], channels),
        "channel_weights": per_channel(1.0, finetune["mask_weight"], channels),
        "steps": steps,
        "warmup": math.ceil(WARMUP * steps),
        "evaluate_every": epoch,
        **{name: finetune[name] for name in ("batch", "lr", "patience", "seed")},
        **flow,
        **{name: value for name, value in train.items() if name not in TRAINER},
    }


class PairModule(MeanFlowModule):
    """Trains adapters on pairs, with early stopping on validation pairs.

    Arguments:
        u: Network from `add_adapters`.
        x: Normalised training pairs (N, C, I, J, K), with augmented versions.
        validation: Normalised validation pairs (M, C, I, J, K). If M = 0, the last weights are final.
        evaluate_every: Steps between two evaluations on validation pairs, and between two rows of the history.
        patience: Evaluations without a lower validation loss after which training stops.
        settings: Further arguments of `MeanFlowModule`.
    """

    PROGRESS = ("raw_fm", "raw_mf", "validation")

    def __init__(
        self, u: MeanVelocityNet, x: Tensor, validation: Tensor, *, evaluate_every: int, patience: int, **settings: Any
    ) -> None:
        super().__init__(u, x, log_every=evaluate_every, **settings)
        self.validation, self.patience = validation, patience
        self.best: dict = {"loss": math.inf, "step": 0, "state": {}}
        self.evaluations_since_best = 0

    def validation_losses(self, u: MeanVelocityNet) -> dict[str, Tensor]:
        """Raw losses (M * DRAWS,) on validation pairs at fixed times and noise: of all, image and mask channels."""
        n = len(self.validation) * DRAWS
        x = self.validation.repeat_interleave(DRAWS, 0).to(self.device)
        eps = torch.randn(x.shape, generator=generator("held eps", self.seed)).to(x)
        t, r = (a.to(x) for a in flow.draw_times(n, generator("held times", self.seed), **self.times))
        was_training, _ = u.training, u.train()  # clips t in data predictions, as in their target
        with torch.no_grad():
            parts = [self.raw_losses(u, *(a[k] for a in (x, eps, t, r))) for k in torch.arange(n).split(self.batch)]
        u.train(was_training)
        image, mask = torch.cat(parts).unbind(1)
        weight = LATENT_CHANNELS / x.shape[1]
        return {
            "validation": weight * image + (1 - weight) * mask,
            "validation_image": image,
            "validation_mask": mask,
        }

    def raw_losses(self, u: MeanVelocityNet, x: Tensor, eps: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Raw losses (B, 2) of image channels and of mask channels."""
        z, v = flow.training_path(x, eps, t, u.prediction)
        tangent = flow.predicted_tangent(u, z, t, r) if self.tangent == "predicted" else v
        V = flow.implied_velocity(*self.derivative(u, z, t, r, tangent), t, r)
        parts = (slice(LATENT_CHANNELS), slice(LATENT_CHANNELS, None))
        return torch.stack([flow.raw_loss(V[:, part], v[:, part]) for part in parts], 1)

    def on_train_batch_end(self, *args: object) -> None:
        if self.global_step % self.log_every == 0:
            self.values.update({name: [value] for name, value in self.evaluate().items()})
            if self.evaluations_since_best >= self.patience:
                logger.info(
                    "stopped at step %d, lowest validation loss at step %d", self.global_step, self.best["step"]
                )
                self.steps, self.trainer.should_stop = self.global_step, True
        super().on_train_batch_end(*args)

    def evaluate(self) -> dict[str, float]:
        """Mean validation losses of the EMA weights, which are stored if the loss is the lowest so far."""
        if not len(self.validation):
            return {}
        losses = {name: float(values.mean()) for name, values in self.validation_losses(self.ema.net).items()}
        self.evaluations_since_best += 1
        if losses["validation"] < self.best["loss"]:
            self.best = {"loss": losses["validation"], "step": self.global_step, "state": self.trained_weights()}
            self.evaluations_since_best = 0
        return losses

    def trained_weights(self) -> dict[str, Tensor]:
        """Copy of the EMA weights of all trainable parts."""
        return {name: w.clone() for name, w in lora.adapter_state(self.ema.net).items()}

    def best_network(self) -> MeanVelocityNet:
        """EMA network with the weights of the lowest validation loss; without validation pairs, the last weights."""
        if self.best["state"]:
            self.ema.net.load_state_dict(self.best["state"], strict=False)
        return self.ema.net

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["best"], checkpoint["evaluations_since_best"] = self.best, self.evaluations_since_best

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.best, self.evaluations_since_best = checkpoint["best"], checkpoint["evaluations_since_best"]


def summary(module: PairModule) -> dict:
    """Number of trained weights, and where training stopped, for the card of a run."""
    trainable, total = lora.count_trainable_params(module.u)
    adapters = sum(p.numel() for name, p in module.u.named_parameters() if "lora_" in name)
    sizes = {"trainable": trainable, "total": total, "lora": adapters, "lora_fraction": adapters / total}
    best = {"best_step": module.best["step"], "best_validation": module.best["loss"], "stopped_at": module.steps}
    return sizes | best
