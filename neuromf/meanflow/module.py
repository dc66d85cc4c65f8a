"""Training of MeanFlow: draws, regression, logging. The formulas are in `flow.py`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuromf.core import hardware
from neuromf.core.seeds import noise
from neuromf.meanflow import flow
from neuromf.meanflow.diagnostics import Diagnostics
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn import position_maps
from neuromf.nn.ema import EMA
from neuromf.training.module import ResumableModule
from neuromf.vae.training_set import MemoryMappedLatents

FLOW_MATCHING = {"fraction_r_equals_t": 1.0, "fraction_corner": 0.0, "fraction_uniform": 0.0}
N_EARLY = 16  # early samples
TIME_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)


class MeanFlowModule(ResumableModule):
    """Train u(z, t, r) on normalised latents (N, C, I, J, K).

    Arguments:
        u: Network to train. Its EMA networks are submodules, too.
        latents: Normalised posterior means, in memory or memory-mapped.
        times: Keyword arguments of `flow.draw_times`.
        flow_matching_steps: First steps, in which r = t for all pairs (flow matching; cheaper).
        interval_warmup_steps: Steps after those in which the maximum interval length grows from 0 to 1; 0: no warm-up.
        tangent: Velocity along which u is differentiated. "conditional": eps - x (MF); "predicted": u(z, t, t) (iMF);
            "head": output of the velocity head (iMF), which is trained too.
        target: Regression target for r < t. "conditional": eps - x (MF); "teacher": velocity predicted by the EMA
            network (lower variance), which is then the tangent, too.
        derivative: Key of `flow.DERIVATIVES`.
        derivative_precision: "float32" or "bf16", see `flow.total_derivative`.
        p: Loss exponent, or one per channel, see `flow.channel_lp`.
        channel_weights: Loss factor per channel, see `flow.channel_lp`.
        adaptive_power: Exponent of the adaptive weight, see `flow.adaptively_weighted`.
        adaptive_c: Offset of the adaptive weight.
        ema_images: Half-lives of the EMA networks, in images. Samples are drawn from the first.
        averages: "device", or "host": EMA networks beyond the first, the teacher, remain in host memory.
        diagnostics: Diagnostics to collect, or None.
        training: Arguments of `ResumableModule`.
    """

    PROGRESS: tuple[str, ...] = ("raw_fm", "raw_mf")
    FIRST_AND_LAST: tuple[str, ...] = ("conv_in", ".out.", "time_embed", position_maps.NAME)
    emas: Any  # ModuleList of EMA

    def __init__(
        self,
        u: MeanVelocityNet,
        latents: Tensor | MemoryMappedLatents,
        *,
        times: dict,
        flow_matching_steps: int = 0,
        interval_warmup_steps: int = 0,
        tangent: str = "conditional",
        target: str = "conditional",
        derivative: str = "single_pass",
        derivative_precision: str = "float32",
        p: float | Sequence[float] = 2.0,
        channel_weights: Sequence[float] | None = None,
        adaptive_power: float = 1.0,
        adaptive_c: float = 0.01,
        ema_images: Sequence[float] = (2000.0,),
        averages: str = "device",
        diagnostics: Diagnostics | None = None,
        **training: Any,
    ) -> None:
        super().__init__(len(latents), **training)
        self.u, self.latents = u, latents
        host = [bool(k) and averages == "host" for k in range(len(ema_images))]
        self.emas = nn.ModuleList(EMA(u, halflife_images=n, host=h) for n, h in zip(ema_images, host, strict=True))
        self.times = times
        self.flow_matching_steps, self.interval_warmup_steps = flow_matching_steps, interval_warmup_steps
        self.tangent, self.target = tangent, target
        self.derivative = partial(flow.DERIVATIVES[derivative], precision=derivative_precision)
        self.p, self.channel_weights = p, channel_weights
        self.adaptive_power, self.adaptive_c = adaptive_power, adaptive_c
        self.diagnostics = diagnostics
        self.early: Tensor | None = None  # normalised one-step samples after a quarter of the training

    @property
    def ema(self) -> EMA:
        """The EMA from which samples are drawn: the first."""
        return self.emas[0]

    def nets(self) -> dict[str, MeanVelocityNet]:
        """Networks by kind: "ema", "online", and "ema-<half-life>" for further averages."""
        further = {f"ema-{ema.halflife_images:g}": ema.net for ema in self.emas[1:]}
        return {"ema": self.ema.net, "online": self.u, **further}

    def training_step(self, _: object, __: int) -> Tensor:
        x = hardware.to_device(self.latents[self.batch_indices()], self.device)
        eps = torch.randn(x.shape, generator=self.draw("eps")).to(x)
        t, r = (times.to(x) for times in flow.draw_times(self.batch, self.draw("times"), **self.time_sampling()))
        z, v = flow.training_path(x, eps, t, self.u.prediction)
        z, v, t, r = (self.local_rows(part) for part in (z, v, t, r))
        teacher_v = self.teacher_velocity(z, t, r, v)
        tangent = v if self.tangent == "conditional" else teacher_v
        target = flow.regression_target(v, teacher_v, t, r) if self.target == "teacher" else v
        out, d_out = self.derivative(self.u.outputs, z, t, r, tangent)
        u, du_dt = out[:, : x.shape[1]], d_out[:, : x.shape[1]]
        V = flow.implied_velocity(u, du_dt, t, r)
        loss = self.weighted_loss(V, target, v)
        if self.u.velocity_head:
            loss = loss + self.weighted_loss(out[:, x.shape[1] :], v, v)
        raw = flow.raw_loss(V, v)
        self.record(loss=loss, **raw_by_time(raw, t, r))
        if self.diagnostics:
            self.diagnostics.record_batch(raw, du_dt, v, t, r)
        return loss

    def weighted_loss(self, V: Tensor, target: Tensor, v: Tensor) -> Tensor:
        """Batch mean of the Lp loss to `target`, with each sample's adaptive weight from its loss to its own v."""
        loss = flow.channel_lp(V, target, self.p, self.channel_weights)
        own = None if target is v else flow.channel_lp(V.detach(), v, self.p, self.channel_weights)
        return flow.adaptively_weighted(loss, own, power=self.adaptive_power, c=self.adaptive_c).mean()

    def teacher_velocity(self, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
        """Predicted velocity where r < t, from the velocity head or as u(z, t, t); v if it is not needed.

        With `target="teacher"` it comes from the EMA network: regressing a network on its own prediction diverges.
        """
        if self.tangent == self.target == "conditional":
            return v
        teacher = self.ema.net if self.target == "teacher" else self.u
        last = slice(-v.shape[1], None)
        return flow.predicted_tangent(lambda z, t, r: teacher.outputs(z, t, r, flow.T_MIN)[:, last], z, t, r)

    def time_sampling(self) -> dict:
        """Arguments of `flow.draw_times` at this step: flow matching first, then intervals of growing length."""
        if self.global_step < self.flow_matching_steps:
            return {**self.times, **FLOW_MATCHING}
        open_steps = self.global_step - self.flow_matching_steps + 1
        longest = min(1.0, open_steps / self.interval_warmup_steps) if self.interval_warmup_steps else 1.0
        return {**self.times, "max_interval": longest}

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.diagnostics and not self.diagnostics.rows and self.global_step == 0:
            self.diagnostics.record_start(self.ema.net, self.latents, self.seed)

    def on_train_batch_end(self, *args: object) -> None:
        if self.diagnostics and self.diagnostics.due(self.global_step, self.steps):
            self.diagnostics.pairs = self.gathered(self.diagnostics.pairs)
            self.diagnostics.evaluate(self.global_step, self.ema.net, self.latents, self.seed)
        if self.early is None and self.global_step >= self.steps // 4:
            eps = noise(self.seed, list(range(N_EARLY)), self.latents.shape[1:]).to(self.device, self.latents.dtype)
            self.early = flow.sample(self.ema.net, eps).cpu()
        super().on_train_batch_end(*args)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["early"] = self.early
        checkpoint["diagnostics"] = self.diagnostics and self.diagnostics.state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.early = checkpoint["early"]
        if self.diagnostics:
            self.diagnostics.restore(checkpoint["diagnostics"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One optimiser step, then one EMA update; accumulated batches count as one."""
        super().optimizer_step(*args, **kwargs)
        images = self.batch * self.trainer.accumulate_grad_batches
        for ema in self.emas:
            ema.update(self.u, images, self.global_step * images)


def raw_by_time(raw: Tensor, t: Tensor, r: Tensor) -> dict[str, Tensor]:
    """Raw losses of flow-matching (r = t) and MeanFlow pairs (r < t), in total and by bin of t."""
    row = {}
    for kind, chosen in (("fm", r == t), ("mf", r < t)):
        row[f"raw_{kind}"] = raw[chosen]
        for low, high in zip(TIME_BINS[:-1], TIME_BINS[1:], strict=True):
            row[f"raw_{kind}_t{low:g}-{high:g}"] = raw[chosen & (t > low) & (t <= high)]
    return row
