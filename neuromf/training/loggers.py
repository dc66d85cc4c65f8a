"""Optional loggers. Every training writes history.csv; `wandb` adds an offline Weights & Biases run.

An offline run stays on this machine until its folder is uploaded with `wandb sync`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOGGERS = ("csv", "wandb")


class WandbLogger:
    """Copies the rows of a history into an offline Weights & Biases run in `folder`/wandb.

    A resumed training starts a new offline run, which receives the earlier rows too.

    Raises:
        ImportError: If wandb is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                "logger 'wandb' needs the package wandb: pip install 'neuromf[wandb]', or set logger to csv"
            ) from error
        self.wandb, self.folder = wandb, folder
        self.run: Any = None
        self.n_logged = 0

    def log(self, history: Sequence[dict[str, float]]) -> None:
        """Log the rows of `history` that this process has not logged yet."""
        self.run = self.run or self.wandb.init(
            project="neuromf", name=self.folder.name, dir=str(self.folder), mode="offline"
        )
        for row in history[self.n_logged :]:
            self.run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))
        self.n_logged = len(history)

    def finish(self) -> None:
        if self.run:
            self.run.finish()


def make_logger(kind: str, folder: Path) -> WandbLogger | None:
    """The logger of a training beside its history.csv; None for "csv"."""
    if kind not in LOGGERS:
        raise ValueError(f"logger must be one of {', '.join(LOGGERS)}; got {kind!r}")
    return WandbLogger(folder) if kind == "wandb" else None
