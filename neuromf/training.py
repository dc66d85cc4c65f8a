"""Training of the flow: what a step draws, regresses and logs. Wiring, no formulas: those are in `flow.py`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neuromf import flow
from neuromf.fitting import Study
from neuromf.nets import EMA, MeanVelocityNet
from neuromf.seeds import noise


class FlowStudy(Study):
    """Train u(z, t, r) on latents (N, C, I, J, K), normalised and held in memory.

    Arguments:
        u: The network to train; its EMA is kept beside it.
        latents: Normalised posterior means.
        times: Keyword arguments of `flow.draw_times`.
        fm_steps: First steps of plain flow matching (r = t always), cheaper, before the intervals open.
        tangent: "conditional" for v = eps - x in the derivative (MF), "predicted" for u(z, t, t) (iMF, head-free).
        p, channel_weights: Exponents and weights of `flow.channel_lp`.
        adaptive_power, adaptive_c: Of `flow.adaptive`.
        ema_images: Half-life of the average, in images.
    """

    SHOWN = ("raw_fm", "raw_mf")

    def __init__(
        self,
        u: MeanVelocityNet,
        latents: Tensor,
        *,
        times: dict,
        fm_steps: int = 0,
        tangent: str = "conditional",
        p: float | Sequence[float] = 2.0,
        channel_weights: Sequence[float] | None = None,
        adaptive_power: float = 1.0,
        adaptive_c: float = 0.01,
        ema_images: float = 2000.0,
        **study: object,
    ) -> None:
        super().__init__(len(latents), **study)
        self.u, self.ema, self.latents = u, EMA(u, halflife_images=ema_images), latents
        self.fm_steps = fm_steps
        self.times, self.tangent, self.p, self.channel_weights = times, tangent, p, channel_weights
        self.adaptive_power, self.adaptive_c = adaptive_power, adaptive_c
        self.early: Tensor | None = None  # normalised one-step samples after a quarter of the run

    def training_step(self, _: object, __: int) -> Tensor:
        x = self.latents[self.choose()].to(self.device)
        eps = torch.randn(x.shape, generator=self.draw("eps")).to(x)
        t, r = (times.to(x) for times in flow.draw_times(self.batch, self.draw("times"), **self.shares()))
        z, v = flow.training_path(x, eps, t, self.u.prediction)
        du_dt = self.derivative(z, t, r, v)
        V = flow.instantaneous(self.u, z, t, r, du_dt)
        loss = flow.channel_lp(V, v, self.p, self.channel_weights)
        loss = flow.adaptive(loss, power=self.adaptive_power, c=self.adaptive_c).mean()
        self.record(loss=loss, **raw_by_time(flow.raw_loss(V, v), t, r))
        return loss

    def shares(self) -> dict:
        """Arguments of `flow.draw_times` at this step."""
        return {**self.times, **(FLOW_MATCHING if self.global_step < self.fm_steps else {})}

    def on_train_batch_end(self, *args: object) -> None:
        if self.early is None and self.global_step >= self.steps // 4:
            eps = noise(self.seed, list(range(EARLY)), self.latents.shape[1:]).to(self.device)
            self.early = flow.sample(self.ema.net, eps).cpu()
        super().on_train_batch_end(*args)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["early"] = self.early

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.early = checkpoint["early"]

    def derivative(self, z: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
        """du/dt along the path, in float32 whatever the precision of the run."""
        with torch.autocast(z.device.type, enabled=False), torch.no_grad():
            tangent = v if self.tangent == "conditional" else self.u(z, t, t)
            return flow.derivative_where_moving(self.u, z, t, r, tangent)

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        """One step of the optimiser, then one of the average; micro-batches of an accumulation count together."""
        super().optimizer_step(*args, **kwargs)
        images = self.batch * self.trainer.accumulate_grad_batches
        self.ema.update(self.u, images, self.global_step * images)


FLOW_MATCHING = {"share_r_equals_t": 1.0, "share_corner": 0.0}
EARLY = 32  # samples kept of the early network
TIME_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)


def raw_by_time(raw: Tensor, t: Tensor, r: Tensor) -> dict[str, float]:
    """Mean raw loss of flow-matching (r = t) and of MeanFlow pairs (r < t), overall and by t; NaN where none fell."""
    row = {}
    for kind, chosen in (("fm", r == t), ("mf", r < t)):
        row[f"raw_{kind}"] = raw[chosen].mean()
        for low, high in zip(TIME_BINS[:-1], TIME_BINS[1:], strict=True):
            row[f"raw_{kind}_t{low:g}-{high:g}"] = raw[chosen & (t > low) & (t <= high)].mean()
    return row
