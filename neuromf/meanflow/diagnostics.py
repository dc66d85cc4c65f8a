"""How a training is, in numbers that a weighted loss hides: tidy rows, and alarms that name cause and cure.

Rows have the columns step, quantity, t, h, part and value. Losses are raw, per element. What is measured:

    raw_fm, raw_mf      mean raw loss of pairs with r = t, and with r < t, by t and by h = t - r
    fixed_fm            raw loss of pairs with r = t that are the same at every look, and before the first step (0)
    ratio               raw_mf over raw_fm at equal t: near 1 when the average velocity is right
    derivative          rms of h du/dt over rms of v, by t and h
    spatial, temporal   rms of du/dz . v and of du/dt alone, over rms of v, on the probe
    endpoint            rms between one-step and many-step samples of the same noise, over that of the latter's spread
    latent_std          deviation of one-step samples over that of the data, by channel
    spectrum            power of one-step samples over that of the data, by frequency (cycles per position)
    alarm               1 where the alarm named in `part` went off
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuromf.core.seeds import generator, noise
from neuromf.meanflow import flow
from neuromf.meanflow.velocity_net import MeanVelocityNet
from neuromf.metrics.images.spectral import radial_spectrum
from neuromf.vae.training_set import MemoryMappedLatents

logger = logging.getLogger(__name__)

BINS = ("0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1")
COLUMNS = ("step", "quantity", "t", "h", "part", "value")


class TrainingAlarm(RuntimeError):
    """A training that an alarm has stopped."""


def bin_of(times: Tensor) -> Tensor:
    """Index into `BINS` of times in [0, 1]; edges belong to the bin below."""
    return (torch.ceil(times * len(BINS)) - 1).clamp(0, len(BINS) - 1).long()


def rms(a: Tensor) -> Tensor:
    """Root mean square of each sample, with shape (B,)."""
    return a.flatten(1).square().mean(1).sqrt()


class Diagnostics:
    """Collects what every pair of a stretch says, and now and then looks deeper with a probe.

    Arguments:
        every: Steps between two looks; each closes a stretch.
        evaluations: Of the many-step samples that one-step ones are held against.
        n: Samples of a probe.
        after: Steps before alarms may sound: warm-up, and flow matching alone.
        on_alarm: "warn" or "stop".
    """

    def __init__(
        self, *, every: int, evaluations: int = 50, n: int = 8, after: int = 100, on_alarm: str = "warn"
    ) -> None:
        self.every, self.evaluations, self.n, self.after, self.on_alarm = every, evaluations, n, after, on_alarm
        self.pairs: list[tuple] = []  # (kind, t bin, h bin, raw loss, |h du/dt| / |v|) of the current stretch
        self.rows: list[dict] = []

    def record_batch(self, raw: Tensor, du_dt: Tensor, v: Tensor, t: Tensor, r: Tensor) -> None:
        """Take in the pairs of a step: raw losses (B,), du/dt and v (B, ...), times (B,)."""
        part = (t - r) * rms(du_dt.detach()) / rms(v)
        kinds = ["raw_mf" if moving else "raw_fm" for moving in (r < t).tolist()]
        columns = (bin_of(t).tolist(), bin_of(t - r).tolist(), raw.tolist(), part.tolist())
        self.pairs += list(zip(kinds, *columns, strict=True))

    def due(self, step: int, last: int) -> bool:
        """Whether a look is due after this step of `last`; the micro-batches of one step ask more than once."""
        new = not self.rows or self.rows[-1]["step"] < step
        return new and step > 0 and (step % self.every == 0 or step == last)

    def state(self) -> dict:
        """What a checkpoint holds of it."""
        return {"pairs": self.pairs, "rows": self.rows}

    def restore(self, state: dict) -> None:
        self.pairs, self.rows = state["pairs"], state["rows"]

    def record_start(self, u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, seed: int) -> None:
        """What the network is before its first step, on the pairs that every look comes back to."""
        self.record_rows(0, fixed_pairs(u, *probed(u, latents, self.n, seed)))

    def evaluate(self, step: int, u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, seed: int) -> None:
        """Close the stretch at this step: rows of its pairs, of the probe, and of what alarms they raise."""
        rows = [*summarise_window(self.pairs), *probe(u, latents, n=self.n, evaluations=self.evaluations, seed=seed)]
        self.pairs = []
        self.record_rows(step, rows)
        if step > self.after:
            self.check_alarms(step)

    def record_rows(self, step: int, rows: Sequence["Row"]) -> None:
        """Take in rows of a step."""
        self.rows += [dict(zip(COLUMNS, (step, *row), strict=True)) for row in rows]

    def check_alarms(self, step: int) -> None:
        """Raise or log every alarm that the rows up to this step call for."""
        for alarm in ALARMS:
            if problem := alarm.test(self.rows):
                text = f"step {step}: {problem}. Likely cause: {alarm.cause}. Cure: {alarm.cure}."
                self.rows.append(dict(zip(COLUMNS, (step, "alarm", "", "", alarm.name, 1.0), strict=True)))
                if self.on_alarm == "stop":
                    raise TrainingAlarm(text)
                logger.warning(text)


# --- rows --------------------------------------------------------------------------------------------

Row = tuple[str, str, str, str, float]  # quantity, t, h, part, value


def summarise_window(pairs: Sequence[tuple]) -> list[Row]:
    """Rows of the pairs of a stretch: raw losses and derivative by bin, and the ratio at equal t."""
    rows, by_t = [], {}
    for kind in ("raw_fm", "raw_mf"):
        for t in range(len(BINS)):
            of_t = [pair for pair in pairs if pair[:2] == (kind, t)]
            if of_t:
                by_t[kind, t] = float(np.mean([pair[3] for pair in of_t]))
                rows.append((kind, BINS[t], "", "", by_t[kind, t]))
            for h in sorted({pair[2] for pair in of_t} if kind == "raw_mf" else ()):
                of_h = [pair for pair in of_t if pair[2] == h]
                rows.append((kind, BINS[t], BINS[h], "", float(np.mean([pair[3] for pair in of_h]))))
                rows.append(("derivative", BINS[t], BINS[h], "", float(np.mean([pair[4] for pair in of_h]))))
    both = [t for t in range(len(BINS)) if ("raw_fm", t) in by_t and ("raw_mf", t) in by_t]
    return rows + [("ratio", BINS[t], "", "", by_t["raw_mf", t] / by_t["raw_fm", t]) for t in both]


@torch.no_grad()
def probe(
    u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, *, n: int, evaluations: int, seed: int
) -> list[Row]:
    """Rows of one-step samples from fixed noise, against many steps and against the data, and of the derivative."""
    x, eps = probed(u, latents, n, seed)
    with torch.autocast(x.device.type, enabled=False):
        one = flow.sample(u, eps)
        many = flow.sample(u, eps, flow.uniform_times(evaluations))
        shares = derivative_shares(u, x, eps)
    apart = (one - many).square().mean().sqrt() / many.std(0).square().mean().sqrt()
    std = one.transpose(0, 1).flatten(1).std(1) / x.transpose(0, 1).flatten(1).std(1)
    frequency, power = spectrum_over(one, x)
    return [
        *fixed_pairs(u, x, eps),
        *shares,
        ("endpoint", "", "", "", float(apart)),
        *(("latent_std", "", "", str(c), float(value)) for c, value in enumerate(std)),
        *(("spectrum", "", "", f"{f:.4g}", float(value)) for f, value in zip(frequency, power, strict=True)),
    ]


def probed(u: MeanVelocityNet, latents: Tensor | MemoryMappedLatents, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Data and noise that every probe of a run takes, (n, C, I, J, K) each, where the network is."""
    x = latents[torch.randperm(len(latents), generator=generator("probe", seed))[:n]]
    x = x.to(next(u.parameters()).device)
    return x, noise(seed, list(range(len(x))), x.shape[1:]).to(x)


@torch.no_grad()
def fixed_pairs(u: MeanVelocityNet, x: Tensor, eps: Tensor) -> list[Row]:
    """Rows of the raw loss at r = t in the middle of every bin of t: small changes show, as no chance is in between."""
    rows = []
    for k, name in enumerate(BINS):
        t = x.new_full(x.shape[:1], (k + 0.5) / len(BINS))
        z, v = flow.interpolate(x, eps, t)
        rows.append(("fixed_fm", name, "", "", float(flow.raw_loss(u(z, t, t), v).mean())))
    return rows


def derivative_shares(u: MeanVelocityNet, x: Tensor, eps: Tensor) -> list[Row]:
    """Rows of both parts of du/dt at r = 0 in the middle of every bin of t: along z, and along t alone."""
    rows = []
    for k, name in enumerate(BINS):
        t = x.new_full(x.shape[:1], (k + 0.5) / len(BINS))
        z, v = flow.interpolate(x, eps, t)
        r, zero, one = torch.zeros_like(t), torch.zeros_like(t), torch.ones_like(t)
        spatial = torch.func.jvp(u, (z, t, r), (v, zero, zero))[1]
        temporal = torch.func.jvp(u, (z, t, r), (torch.zeros_like(z), one, zero))[1]
        rows += [(kind, name, "", "", float((rms(part) / rms(v)).mean()))
                 for kind, part in (("spatial", spatial), ("temporal", temporal))]  # fmt: skip
    return rows


def spectrum_over(one: Tensor, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, and the ratio of mean radial powers of two sets of latents (N, C, I, J, K), channels together."""
    frequency, ours = radial_spectrum(one.flatten(0, 1).cpu().numpy(), 1.0)
    theirs = radial_spectrum(x.flatten(0, 1).cpu().numpy(), 1.0)[1]
    return frequency, ours.mean(0) / theirs.mean(0)


# --- alarms ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alarm:
    """What is tested on the rows so far (a sentence where it is so, else ""), why it happens and what helps."""

    name: str
    test: Callable[[list[dict]], str]
    cause: str
    cure: str


def latest(rows: list[dict], quantity: str) -> list[dict]:
    """Rows of a quantity at the last step that has it."""
    found = [row for row in rows if row["quantity"] == quantity]
    return [row for row in found if row["step"] == found[-1]["step"]]


def ratio_high(rows: list[dict], bound: float = 2.0) -> str:
    worst = max(latest(rows, "ratio"), key=lambda row: row["value"], default=None)
    if worst is None or worst["value"] <= bound:
        return ""
    return (
        f"raw MeanFlow loss is {worst['value']:.3g} x the flow-matching loss at t in {worst['t']} (at most {bound:g})"
    )


def time_too_fast(rows: list[dict], bound: float = 2.0) -> str:
    along_z = {row["t"]: row["value"] for row in latest(rows, "spatial")}
    sick = [row for row in latest(rows, "temporal") if row["value"] > max(1.0, bound * along_z[row["t"]])]
    if not sick:
        return ""
    worst = max(sick, key=lambda row: row["value"])
    times = worst["value"] / along_z[worst["t"]]
    return f"du/dt at fixed z is {times:.3g} x that along z at t in {worst['t']} (at most {bound:g})"


def raw_explodes(rows: list[dict], factor: float = 10.0) -> str:
    for kind in ("raw_fm", "raw_mf"):
        for name in BINS:
            values = [row["value"] for row in rows if (row["quantity"], row["t"], row["h"]) == (kind, name, "")]
            if values and values[-1] > factor * min(values):
                return f"{kind} at t in {name} is {values[-1]:.3g}, {factor:g} x above its minimum {min(values):.3g}"
    return ""


def not_finite(rows: list[dict]) -> str:
    bad = [row for row in rows if row["step"] == rows[-1]["step"] and not math.isfinite(row["value"])]
    return f"{bad[0]['quantity']} is {bad[0]['value']}" if bad else ""


ALARMS = (
    Alarm("not-finite", not_finite, "a step too long, or a volume that is not a head",
          "lower train.lr, look at the items of the last batches"),
    Alarm("time-too-fast", time_too_fast, "time enters the network scaled, so that its embedding turns many times "
          "between data and noise and the derivative drowns in its phase", "feed t and h raw, in [0, 1]"),
    Alarm("ratio", ratio_high, "the derivative is noisy (finite differences or bf16), its tangent is that of single "
          "pairs, or training went on to long intervals too early",
          "derivative: joint in float32, tangent: predicted, more flow_matching_steps, a lower lr"),
    Alarm("explosion", raw_explodes, "the adaptive weight shrinks the gradient of samples that have run away, and its "
          "loss looks calm meanwhile", "go back to the last checkpoint with a lower lr or a smaller adaptive_power"),
)  # fmt: skip
