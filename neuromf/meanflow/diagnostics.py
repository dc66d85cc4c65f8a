"""Diagnostics of a training that the adaptively weighted loss hides: tidy rows, and alarms with cause and cure.

Rows have the columns step, quantity, t, h, part and value. Losses are raw, per element. Quantities:

    raw_fm, raw_mf      mean raw loss of pairs with r = t and with r < t, by t and h = t - r
    fixed_fm            raw loss of fixed pairs with r = t, by t, at each evaluation and before the first step
    ratio               raw_mf over raw_fm at equal t; near 1 if the average velocity is correct
    derivative          rms of h du/dt over rms of v, by t and h
    spatial, temporal   rms of du/dz . v and of the partial derivative du/dt, over rms of v, on fixed pairs with r = 0
    endpoint            rms between one-step and many-step samples of the same noise, over the rms spread of the latter
    latent_std          standard deviation of one-step samples over that of the data, by channel
    spectrum            power of one-step samples over that of the data, by frequency (cycles per position)
    validation          posterior error of validation participants by t, of the network and of the prior alone (`part`)
    alarm               1 for the alarm named in `part`
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuromf.core.seeds import generator, noise
from neuromf.meanflow import flow
from neuromf.meanflow.posterior_error import posterior_error
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.metrics.images.spectral import radial_spectrum
from neuromf.vae.training_set import MemoryMappedLatents

logger = logging.getLogger(__name__)

BINS = ("0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1")
COLUMNS = ("step", "quantity", "t", "h", "part", "value")
Row = tuple[str, str, str, str, float]  # quantity, t, h, part, value


class TrainingAlarm(RuntimeError):
    """An alarm that stopped a training."""


class Diagnostics:
    """Collect losses and derivatives of all training pairs, and regularly evaluate the network on a fixed probe.

    Arguments:
        every: Steps between two evaluations; each closes a window of training pairs.
        nfe: Network evaluations of many-step samples, the reference of one-step samples.
        n: Samples of the probe.
        quiet_steps: Steps before alarms are raised: warm-up and flow matching.
        on_alarm: "warn" or "stop".
        validation: Normalised latents (M, C, I, J, K) of validation participants, or None.
    """

    def __init__(
        self,
        *,
        every: int,
        nfe: int = 50,
        n: int = 8,
        quiet_steps: int = 100,
        on_alarm: str = "warn",
        validation: Tensor | None = None,
    ) -> None:
        self.validation = validation
        self.every, self.nfe, self.n, self.quiet_steps, self.on_alarm = every, nfe, n, quiet_steps, on_alarm
        self.pairs: list[tuple] = []  # (kind, t bin, h bin, raw loss, rms of h du/dt over rms of v) of this window
        self.rows: list[dict] = []

    def record_batch(self, raw: Tensor, du_dt: Tensor, v: Tensor, t: Tensor, r: Tensor) -> None:
        """Add the pairs of a batch: raw losses (B,), du/dt and v (B, ...), times (B,)."""
        derivative = (t - r) * rms(du_dt.detach()) / rms(v)
        kinds = ["raw_mf" if moving else "raw_fm" for moving in (r < t).tolist()]
        columns = (bin_of(t).tolist(), bin_of(t - r).tolist(), raw.tolist(), derivative.tolist())
        self.pairs += list(zip(kinds, *columns, strict=True))

    def due(self, step: int, last: int) -> bool:
        """Whether to evaluate after this step of `last`; once per step, however many batches are accumulated."""
        new = not self.rows or self.rows[-1]["step"] < step
        return new and step > 0 and (step % self.every == 0 or step == last)

    def state(self) -> dict:
        """State for a checkpoint."""
        return {"pairs": self.pairs, "rows": self.rows}

    def restore(self, state: dict) -> None:
        self.pairs, self.rows = state["pairs"], state["rows"]

    def record_start(self, u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, seed: int) -> None:
        """Evaluate the untrained network on the fixed pairs, also if training starts from trained weights."""
        self.record_rows(0, fixed_pairs(untrained(u), *probe_pairs(u, latents, self.n, seed)))

    def evaluate(self, step: int, u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, seed: int) -> None:
        """Close the window at this step: add rows of its pairs and of the probe, then check the alarms."""
        rows = [*summarise_window(self.pairs), *probe(u, latents, n=self.n, nfe=self.nfe, seed=seed)]
        if self.validation is not None and len(self.validation):
            rows += validation_rows(u, self.validation.to(next(u.parameters()).device), seed)
        self.pairs = []
        self.record_rows(step, rows)
        if step > self.quiet_steps:
            self.check_alarms(step)

    def record_rows(self, step: int, rows: Sequence[Row]) -> None:
        self.rows += [dict(zip(COLUMNS, (step, *row), strict=True)) for row in rows]

    def check_alarms(self, step: int) -> None:
        """Log every alarm that the rows trigger.

        Raises:
            TrainingAlarm: At the first alarm if `on_alarm` is "stop".
        """
        for alarm in ALARMS:
            if problem := alarm.test(self.rows):
                text = f"step {step}: {problem}. Likely cause: {alarm.cause}. Cure: {alarm.cure}."
                self.record_rows(step, [("alarm", "", "", alarm.name, 1.0)])
                if self.on_alarm == "stop":
                    raise TrainingAlarm(text)
                logger.warning(text)


def bin_of(times: Tensor) -> Tensor:
    """Index into `BINS` of times in [0, 1]; an edge belongs to the bin below it."""
    return (torch.ceil(times * len(BINS)) - 1).clamp(0, len(BINS) - 1).long()


def rms(a: Tensor) -> Tensor:
    """Root mean square of each sample, shape (B,)."""
    return a.flatten(1).square().mean(1).sqrt()


def summarise_window(pairs: Sequence[tuple]) -> list[Row]:
    """Rows of the training pairs of a window: raw losses and derivative by bin, and the ratio at equal t."""
    rows, by_t = [], {}
    for kind in ("raw_fm", "raw_mf"):
        for t in range(len(BINS)):
            in_t = [pair for pair in pairs if pair[:2] == (kind, t)]
            if in_t:
                by_t[kind, t] = float(np.mean([pair[3] for pair in in_t]))
                rows.append((kind, BINS[t], "", "", by_t[kind, t]))
            for h in sorted({pair[2] for pair in in_t} if kind == "raw_mf" else ()):
                in_h = [pair for pair in in_t if pair[2] == h]
                rows.append((kind, BINS[t], BINS[h], "", float(np.mean([pair[3] for pair in in_h]))))
                rows.append(("derivative", BINS[t], BINS[h], "", float(np.mean([pair[4] for pair in in_h]))))
    both = [t for t in range(len(BINS)) if ("raw_fm", t) in by_t and ("raw_mf", t) in by_t]
    return rows + [("ratio", BINS[t], "", "", by_t["raw_mf", t] / by_t["raw_fm", t]) for t in both]


@torch.no_grad()
def probe(u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, *, n: int, nfe: int, seed: int) -> list[Row]:
    """Rows of the fixed pairs, of du/dt, and of one-step samples against `nfe`-step samples and against the data."""
    x, eps = probe_pairs(u, latents, n, seed)
    with torch.autocast(x.device.type, enabled=False):
        one = flow.sample(u, eps)
        many = flow.sample(u, eps, flow.uniform_times(nfe))
        derivatives = partial_derivatives(u, x, eps)
    endpoint = (one - many).square().mean().sqrt() / many.std(0).square().mean().sqrt()
    std = one.transpose(0, 1).flatten(1).std(1) / x.transpose(0, 1).flatten(1).std(1)
    frequency, power = spectrum_ratio(one, x)
    return [
        *fixed_pairs(u, x, eps),
        *derivatives,
        ("endpoint", "", "", "", float(endpoint)),
        *(("latent_std", "", "", str(c), float(value)) for c, value in enumerate(std)),
        *(("spectrum", "", "", f"{f:.4g}", float(value)) for f, value in zip(frequency, power, strict=True)),
    ]


def probe_pairs(u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Data and noise of the probe, (n, C, I, J, K) each, the same throughout a run, on the device of the network."""
    x = latents[torch.randperm(len(latents), generator=generator("probe", seed))[:n]]
    x = x.to(next(u.parameters()).device)
    return x, noise(seed, list(range(len(x))), x.shape[1:]).to(x)


def at_bin_centres(x: Tensor, eps: Tensor) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Name, t (B,), z and v of the probe pairs at the centre of each bin of t."""
    for k, name in enumerate(BINS):
        t = x.new_full(x.shape[:1], (k + 0.5) / len(BINS))
        yield name, t, *flow.interpolate(x, eps, t)


def untrained(u: MeanVelocityNet) -> flow.MeanVelocity:
    """The velocity of a network before any training, which is that of its prior; without a prior, `u` as it is."""
    if u.prior is None:
        return u
    prior, t_min = u.prior, u.EVALUATION_T_MIN
    return lambda z, t, r: flow.velocity_from_data(prior(z, t, r), z, t, t_min)


@torch.no_grad()
def fixed_pairs(u: flow.MeanVelocity, x: Tensor, eps: Tensor) -> list[Row]:
    """Rows of the raw loss at r = t; without random draws, small changes are visible."""
    return [("fixed_fm", name, "", "", float(flow.raw_loss(u(z, t, t), v).mean()))
            for name, t, z, v in at_bin_centres(x, eps)]  # fmt: skip


def validation_rows(u: MeanVelocityNet, x: Tensor, seed: int) -> list[Row]:
    """Rows of the posterior error of validation participants (M, C, I, J, K), of the network and of its prior."""
    predictors = {"network": lambda z, t: flow.data_from_velocity(u(z, t, t), z, t)}
    if u.prior is not None:
        prior = u.prior
        predictors["prior"] = lambda z, t: prior(z, t, t)
    return [("validation", f"{t:g}", "", name, float(error.mean()))
            for name, predict in predictors.items()
            for t, error in posterior_error(predict, x, seed=seed).items()]  # fmt: skip


def partial_derivatives(u: MeanVelocityNet, x: Tensor, eps: Tensor) -> list[Row]:
    """Rows of both terms of the total derivative at r = 0: along z, and along t at fixed z."""
    rows = []
    for name, t, z, v in at_bin_centres(x, eps):
        r, zero, one = torch.zeros_like(t), torch.zeros_like(t), torch.ones_like(t)
        spatial = torch.func.jvp(u, (z, t, r), (v, zero, zero))[1]
        temporal = torch.func.jvp(u, (z, t, r), (torch.zeros_like(z), one, zero))[1]
        rows += [(kind, name, "", "", float((rms(part) / rms(v)).mean()))
                 for kind, part in (("spatial", spatial), ("temporal", temporal))]  # fmt: skip
    return rows


def spectrum_ratio(samples: Tensor, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, and mean radial power of samples over that of data, latents (N, C, I, J, K) each."""
    frequency, power = radial_spectrum(samples.flatten(0, 1).cpu().numpy(), 1.0)
    reference = radial_spectrum(x.flatten(0, 1).cpu().numpy(), 1.0)[1]
    return frequency, power.mean(0) / reference.mean(0)


@dataclass(frozen=True)
class Alarm:
    """A test of all rows so far (a description of the problem, or ""), its likely cause and the cure."""

    name: str
    test: Callable[[list[dict]], str]
    cause: str
    cure: str


def latest(rows: list[dict], quantity: str) -> list[dict]:
    """Rows of a quantity at the last step that has it."""
    rows = [row for row in rows if row["quantity"] == quantity]
    return [row for row in rows if row["step"] == rows[-1]["step"]]


def ratio_high(rows: list[dict], bound: float = 2.0) -> str:
    worst = max(latest(rows, "ratio"), key=lambda row: row["value"], default=None)
    if worst is None or worst["value"] <= bound:
        return ""
    return (
        f"raw MeanFlow loss is {worst['value']:.3g} x the flow-matching loss at t in {worst['t']} (at most {bound:g})"
    )


def time_too_fast(rows: list[dict], bound: float = 2.0) -> str:
    spatial = {row["t"]: row["value"] for row in latest(rows, "spatial")}
    fast = [row for row in latest(rows, "temporal") if row["value"] > max(1.0, bound * spatial[row["t"]])]
    if not fast:
        return ""
    worst = max(fast, key=lambda row: row["value"])
    ratio = worst["value"] / spatial[worst["t"]]
    return f"du/dt at fixed z is {ratio:.3g} x that along z at t in {worst['t']} (at most {bound:g})"


def raw_explodes(rows: list[dict], factor: float = 10.0) -> str:
    for kind in ("raw_fm", "raw_mf"):
        for name in BINS:
            values = [row["value"] for row in rows if (row["quantity"], row["t"], row["h"]) == (kind, name, "")]
            if values and values[-1] > factor * min(values):
                return f"{kind} at t in {name} is {values[-1]:.3g}, over {factor:g} x its minimum {min(values):.3g}"
    return ""


def overfits(rows: list[dict], bound: float = 1.02) -> str:
    errors: dict[str, list[float]] = {}
    for row in rows:
        if row["quantity"] == "validation" and row["part"] == "network":
            errors.setdefault(row["t"], []).append(row["value"])
    rise, t = max(((values[-1] / min(values), t) for t, values in errors.items()), default=(0.0, ""))
    if rise <= bound:
        return ""
    return f"the posterior error of validation participants at t = {t} is {rise:.3g} x its minimum (at most {bound:g})"


def not_finite(rows: list[dict]) -> str:
    bad = [row for row in rows if row["step"] == rows[-1]["step"] and not math.isfinite(row["value"])]
    return f"{bad[0]['quantity']} is {bad[0]['value']}" if bad else ""


ALARMS = (
    Alarm("not-finite", not_finite, "too large a step, or a training volume that is not a brain",
          "lower train.lr, inspect the items of the last batches"),
    Alarm("time-too-fast", time_too_fast, "the times are scaled before their embedding, so that its phases dominate "
          "du/dt", "feed t and h raw, in [0, 1]"),
    Alarm("ratio", ratio_high, "du/dt is noisy (bf16, or the conditional tangent), or long intervals opened too early",
          "derivative: single_pass in float32, tangent: predicted, more flow_matching_steps, a lower lr"),
    Alarm("explosion", raw_explodes, "the adaptive weight shrinks the gradient of diverged samples, while the weighted "
          "loss stays flat", "resume from the last checkpoint with a lower lr or a smaller adaptive_power"),
    Alarm("overfitting", overfits, "the network memorises its training participants",
          "fewer steps, more participants, or latents.n_augmented"),
)  # fmt: skip
