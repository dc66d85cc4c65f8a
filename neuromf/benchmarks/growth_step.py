"""Cost of a training step of the growth system: its module in Lightning against a plain loop, float32 against bfloat16.

Both have the same network, loss, clipping and optimiser. Medians over steps, rounds in turn, so that other load on the
machine affects all alike; CPU seconds of the process stand beside wall-clock seconds, which a busy machine inflates.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from neuromf.core.hardware import device_name
from neuromf.growth.models import BaselineVAE
from neuromf.growth.module import VAELitModule
from neuromf.vae.elbo import compute_elbo

PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}
CLIP, LR = 5.0, 1e-3
Times = list[tuple[float, float]]  # wall-clock and CPU seconds of steps


@contextmanager
def timed(times: Times) -> Iterator[None]:
    """Append the seconds of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    times.append((time.perf_counter() - wall, time.process_time() - cpu))


def plain_steps(net: BaselineVAE, x: Tensor, steps: int, precision: str) -> Times:
    """Times of a plain training loop on one batch."""
    optimiser, times = torch.optim.AdamW(net.train().parameters(), lr=LR), []  # type: ignore[var-annotated]
    for _ in range(steps):
        with timed(times):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                x_hat, mu, logvar = net(x)
                loss = compute_elbo(x, x_hat, mu, logvar, 1.0)["loss"]
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimiser.step()
    return times


class StepTimes(pl.Callback):
    """Times from the start of a batch to that of the next one."""

    def __init__(self) -> None:
        self.starts: Times = []

    def on_train_batch_start(self, *_: object) -> None:
        self.starts.append((time.perf_counter(), time.process_time()))

    def times(self) -> Times:
        """Seconds of all steps but the last."""
        pairs = zip(self.starts, self.starts[1:], strict=False)
        return [(end[0] - start[0], end[1] - start[1]) for start, end in pairs]


def module_steps(net: BaselineVAE, x: Tensor, steps: int, precision: str) -> Times:
    """Times of the module of the growth system in Lightning on one batch."""
    watch, item = StepTimes(), {"image": x, "id": [str(k) for k in range(len(x))]}
    loader: DataLoader = DataLoader([item] * (steps + 1), batch_size=None)  # type: ignore[arg-type]  # a list of batches
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=CLIP, callbacks=[watch],
                         precision=PRECISIONS[precision], **quiet)  # type: ignore[arg-type]  # fmt: skip
    trainer.fit(VAELitModule(net, lr=LR, kl_schedule="constant"), loader)
    return watch.times()


def study(
    *, side: int = 32, batch: int = 16, width: int = 8, z_dim: int = 32, steps: int = 8, rounds: int = 2
) -> list[dict[str, Any]]:
    """Rows with way, precision, seconds and cpu_seconds per step, and cpu_ratio to the plain loop in float32.

    Arguments:
        side: Voxels per axis.
        batch: Subjects per batch.
        width: Width b of the first stage.
        z_dim: Latent dimensions.
        steps: Steps of a way per round, of which the first is not counted.
        rounds: Times that each way is run.
    """
    x = torch.randn(batch, 4, side, side, side, generator=torch.Generator().manual_seed(0))
    ways = {"plain": plain_steps, "module": module_steps}
    times: dict[tuple[str, str], Times] = {(way, precision): [] for precision in PRECISIONS for way in ways}
    for _ in range(rounds):
        for (way, precision), found in times.items():
            net = BaselineVAE(z_dim, (side,) * 3, base_filters=width)
            found += ways[way](net, x, steps, precision)[1:]
    rows: list[dict[str, Any]] = [
        {"way": way, "precision": precision, **_medians(found), "device": device_name()}
        for (way, precision), found in times.items()
    ]
    return [{**row, "cpu_ratio": row["cpu_seconds"] / rows[0]["cpu_seconds"]} for row in rows]


def _medians(times: Times) -> dict[str, float]:
    wall, cpu = zip(*times, strict=True)
    return {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
