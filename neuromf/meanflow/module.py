"""Training of the flow: what a step draws, regresses and logs. Wiring, no formulas: those are in `flow.py`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuromf.core.seeds import noise
from neuromf.meanflow import flow
from neuromf.meanflow.diagnostics import Diagnostics
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.nn.ema import EMA
from neuromf.training.module import ResumableModule
from neuromf.vae.training_set import MemoryMappedLatents


class MeanFlowModule(ResumableModule):
    """Train u(z, t, r) on latents (N, C, I, J, K), normalised, in memory or on disk.

    Arguments:
        u: The network to train; its EMA is kept beside it.
        latents: Normalised posterior means: a tensor, or `store.OnDisk`.
        times: Keyword arguments of `flow.draw_times`.
        flow_matching_steps: First steps of plain flow matching (r = t always), cheaper, before the intervals open.
        interval_warmup_steps: Steps after those in which the largest interval grows from nothing to the whole; 0 opens all at once.
        tangent: "conditional" for v = eps - x in the derivative (MF), "predicted" for u(z, t, t) (iMF, head-free),
            "head" for the second head of u (iMF), which is trained beside it.
        target: What V is regressed on where r < t: "conditional" for v = eps - x, or "predicted" for what the average
            says of v (`flow.regression_target`), which then is the tangent, too. The weight of a sample is that of its loss to
            v = eps - x either way.
        derivative: How du/dt is computed, of `flow.DERIVATIVES`.
        p, channel_weights: Exponents and weights of `flow.channel_lp`.
        adaptive_power, adaptive_c: Of `flow.adaptively_weighted`.
        adaptive_over: Whether the loss that is weighted is the "sum" over elements or their "mean".
        ema_images: Half-lives of the averages, in images; the first is the one that is sampled from.
        diagnostics: What looks after the run, if anything does.
    """

    SHOWN: tuple[str, ...] = ("raw_fm", "raw_mf")

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
        derivative: str = "joint",
        p: float | Sequence[float] = 2.0,
        channel_weights: Sequence[float] | None = None,
        adaptive_power: float = 1.0,
        adaptive_c: float = 0.01,
        adaptive_over: str = "sum",
        ema_images: Sequence[float] = (2000.0,),
        diagnostics: Diagnostics | None = None,
        **study: Any,
    ) -> None:
        super().__init__(len(latents), **study)
        self.u, self.latents = u, latents
        self.emas = nn.ModuleList(EMA(u, halflife_images=images) for images in ema_images)
        self.times, self.flow_matching_steps, self.interval_warmup_steps = (
            times,
            flow_matching_steps,
            interval_warmup_steps,
        )
        self.tangent, self.target, self.derivative = tangent, target, flow.DERIVATIVES[derivative]
        self.p, self.channel_weights = p, channel_weights
        self.adaptive_power, self.adaptive_c, self.adaptive_over = adaptive_power, adaptive_c, adaptive_over
        self.diagnostics = diagnostics
        self.early: Tensor | None = None  # normalised one-step samples after a quarter of the run

    @property
    def averages(self) -> list[EMA]:
        return [ema for ema in self.emas if isinstance(ema, EMA)]

    @property
    def ema(self) -> EMA:
        """The average that is sampled from: the first."""
        return self.averages[0]

    def nets(self) -> dict[str, MeanVelocityNet]:
        """The networks of the run by kind: "ema", "online", and further averages by their half-life."""
        further = {f"ema-{ema.halflife_images:g}": ema.net for ema in self.averages[1:]}
        return {"ema": self.ema.net, "online": self.u, **further}

    def training_step(self, _: object, __: int) -> Tensor:
        x = self.latents[self.batch_indices()].to(self.device)
        eps = torch.randn(x.shape, generator=self.draw("eps")).to(x)
        t, r = (times.to(x) for times in flow.draw_times(self.batch, self.draw("times"), **self.time_sampling()))
        z, v = flow.training_path(x, eps, t, self.u.prediction)
        z, v, t, r = (self.local_rows(part) for part in (z, v, t, r))
        said = self.teacher_velocity(z, t, r, v)
        along = v if self.tangent == "conditional" else said
        target = flow.regression_target(v, said, t, r) if self.target == "predicted" else v
        out, d_out = self.derivative(self.u.outputs, z, t, r, along)
        V = flow.implied_velocity(out[:, : x.shape[1]], d_out[:, : x.shape[1]], t, r)
        loss = self.weighted_loss(V, target, v)
        if self.u.head:
            loss = loss + self.weighted_loss(out[:, x.shape[1] :], v, v)
        raw = flow.raw_loss(V, v)
        self.record(loss=loss, **raw_by_time(raw, t, r))
        if self.diagnostics:
            self.diagnostics.record_batch(raw, d_out[:, : x.shape[1]], v, t, r)
        return loss

    def weighted_loss(self, V: Tensor, target: Tensor, v: Tensor) -> Tensor:
        """The loss that is minimised: that to the target, adaptively weighted by that to the pair's own v, the mean."""
        loss = self.distance(V, target)
        seen = loss if target is v else self.distance(V.detach(), v)
        return flow.adaptively_weighted(loss, seen, power=self.adaptive_power, c=self.adaptive_c).mean()

    def distance(self, V: Tensor, v: Tensor) -> Tensor:
        """Per-channel Lp of each sample, with shape (B,): summed over elements, or their mean."""
        loss = flow.channel_lp(V, v, self.p, self.channel_weights)
        return loss / v[0].numel() if self.adaptive_over == "mean" else loss

    def teacher_velocity(self, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
        """What a network says of v at (z, t) where r < t, by its second head or as u(z, t, t); v where nobody asks.

        Where V is regressed on it, the network is the average: one that chases itself runs away.
        """
        if self.tangent == self.target == "conditional":
            return v
        teacher = self.ema.net if self.target == "predicted" else self.u
        last = slice(-v.shape[1], None)
        return flow.predicted_tangent(lambda z, t, r: teacher.outputs(z, t, r, flow.T_MIN)[:, last], z, t, r)

    def time_sampling(self) -> dict:
        """Arguments of `flow.draw_times` at this step: flow matching first, then intervals that may open slowly."""
        if self.global_step < self.flow_matching_steps:
            return {**self.times, **FLOW_MATCHING}
        since = self.global_step - self.flow_matching_steps + 1
        return {
            **self.times,
            "max_interval": min(1.0, since / self.interval_warmup_steps) if self.interval_warmup_steps else 1.0,
        }

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.diagnostics and not self.diagnostics.rows and self.global_step == 0:
            self.diagnostics.record_start(self.ema.net, self.latents, self.seed)

    def on_train_batch_end(self, *args: object) -> None:
        if self.diagnostics and self.diagnostics.due(self.global_step, self.steps):
            self.diagnostics.pairs = self.gathered(self.diagnostics.pairs)
            self.diagnostics.evaluate(self.global_step, self.ema.net, self.latents, self.seed)
        if self.early is None and self.global_step >= self.steps // 4:
            eps = noise(self.seed, list(range(EARLY)), self.latents.shape[1:]).to(self.device, self.latents.dtype)
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
        """One step of the optimiser, then one of the average; micro-batches of an accumulation count together."""
        super().optimizer_step(*args, **kwargs)
        images = self.batch * self.trainer.accumulate_grad_batches
        for ema in self.averages:
            ema.update(self.u, images, self.global_step * images)


FLOW_MATCHING = {"fraction_r_equals_t": 1.0, "fraction_corner": 0.0, "fraction_uniform": 0.0}
EARLY = 16  # samples kept of the early network
TIME_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)


def raw_by_time(raw: Tensor, t: Tensor, r: Tensor) -> dict[str, Tensor]:
    """Raw losses of flow-matching (r = t) and of MeanFlow pairs (r < t), all of them and by t; none where none fell."""
    row = {}
    for kind, chosen in (("fm", r == t), ("mf", r < t)):
        row[f"raw_{kind}"] = raw[chosen]
        for low, high in zip(TIME_BINS[:-1], TIME_BINS[1:], strict=True):
            row[f"raw_{kind}_t{low:g}-{high:g}"] = raw[chosen & (t > low) & (t <= high)]
    return row
