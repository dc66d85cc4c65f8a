"""Imputation of missing metadata: a network from the observed entries to a distribution of each missing field.

A continuous field gets mean and log-variance, a categorical field logits. Missing entries are sampled by
reparameterisation (Gumbel-softmax for categories), so that their uncertainty enters the condition of the VAE.

Reference:
    Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), arXiv:1611.01144
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuromf.atlas.metadata import Schema, hide_fields

LOGVAR = (-6.0, 3.0)
MASKED = 0.3  # fraction of observed fields that are masked in training
KINDS = ("continuous", "categorical")
TEMPERATURE = 0.5


class Block(NamedTuple):
    """Columns start to stop of one field in the metadata vector; kind is "continuous" or "categorical"."""

    name: str
    kind: str
    start: int
    stop: int


def imputed_blocks(schema: Schema) -> tuple[Block, ...]:
    """Continuous and categorical fields of a schema; flags and topics have no missing values."""
    places = [(field, schema.position(field.name)) for field in schema.fields if field.kind in KINDS]
    return tuple(Block(field.name, field.kind, place.start, place.stop) for field, place in places)


class ImputationHead(nn.Module):
    """Distribution of every field of m (B, d_m) given the entries that are observed.

    Arguments:
        schema: Schema of m; see `imputed_blocks`.
        hidden: Width of the hidden layers.
    """

    columns: Tensor

    def __init__(self, schema: Schema, hidden: int = 64) -> None:
        super().__init__()
        self.schema, self.blocks = schema, imputed_blocks(schema)
        filled = torch.zeros(schema.width, dtype=torch.bool)
        for block in self.blocks:
            filled[block.start : block.stop] = True
        self.register_buffer("columns", filled, persistent=False)
        self.trunk = nn.Sequential(nn.Linear(2 * schema.width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.heads = nn.ModuleList(
            nn.Linear(hidden, (block.stop - block.start) * (2 if block.kind == "continuous" else 1))
            for block in self.blocks
        )

    def forward(self, m: Tensor, observed: Tensor) -> list[Tensor]:
        """Parameters per field: (B, 2 k) means and log-variances, or (B, k) logits."""
        known = observed.to(m.dtype)
        h = self.trunk(torch.cat([m.nan_to_num() * known, known], dim=1))
        return [head(h) for head in self.heads]

    def mask_fields(self, observed: Tensor, random: torch.Generator, fraction: float = MASKED) -> Tensor:
        """Observed entries (B, d_m) after hiding a random fraction of the fields of each row."""
        seed = int(torch.randint(2**31, (), generator=random))
        hidden = hide_fields(observed.cpu().numpy(), self.schema, fraction, np.random.default_rng(seed))
        return observed & ~torch.from_numpy(hidden).to(observed.device)

    def loss(self, m: Tensor, observed: Tensor, kept: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats per field that is observed but not in `kept`; 0 if there is none."""
        total, n = m.new_zeros(()), m.new_zeros(())
        for block, parameters in zip(self.blocks, self(m, kept), strict=True):
            target = (observed & ~kept)[:, block.start]
            values = m.nan_to_num()[:, block.start : block.stop]
            nats = negative_log_likelihood(block, parameters.float(), values)
            total, n = total + (nats * target).sum(), n + target.sum()
        return total / n.clamp(min=1)

    def sample(self, m: Tensor, observed: Tensor, random: torch.Generator) -> Tensor:
        """m with its missing fields sampled, (B, d_m); differentiable."""
        filled = m.nan_to_num() * observed
        columns = list(filled.split(1, dim=1))
        for block, parameters in zip(self.blocks, self(m, observed), strict=True):
            drawn = sample_field(block, parameters, random)
            for k in range(block.start, block.stop):
                known, value = observed[:, k : k + 1], drawn[:, k - block.start : k - block.start + 1]
                columns[k] = torch.where(known, columns[k], value.to(filled))
        return torch.cat(columns, dim=1)


def negative_log_likelihood(block: Block, parameters: Tensor, values: Tensor) -> Tensor:
    """Nats per row, (B,), of values (B, k): Gaussian for a continuous field, cross-entropy for a categorical one."""
    if block.kind == "categorical":
        return F.cross_entropy(parameters, values, reduction="none")
    mu, logvar = parameters.chunk(2, dim=1)
    logvar = logvar.clamp(*LOGVAR)
    return 0.5 * ((values - mu).square() * (-logvar).exp() + logvar + math.log(2 * math.pi)).sum(1)


def sample_field(block: Block, parameters: Tensor, random: torch.Generator) -> Tensor:
    """One sample (B, k) of a field by reparameterisation."""
    uniform = torch.rand(parameters.shape, generator=random).clamp(1e-6, 1 - 1e-6).to(parameters)
    if block.kind == "categorical":
        gumbel = -(-uniform.log()).log()
        return ((parameters + gumbel) / TEMPERATURE).softmax(1)
    mu, logvar = parameters.chunk(2, dim=1)
    noise = torch.special.ndtri(uniform[:, : mu.shape[1]].double()).to(mu)
    return mu + noise * (0.5 * logvar.clamp(*LOGVAR)).exp()


def marginal_nll(block: Block, values: Tensor) -> float:
    """Nats per row of the best constant prediction of a field: what an imputation must beat; values (N, k)."""
    if block.kind == "categorical":
        shares = values.mean(0).clamp(min=1e-9)
        return float(-(values * shares.log()).sum(1).mean())
    logvar = values.var(0, correction=0).clamp(min=1e-9).log()
    return float(0.5 * (logvar + 1 + math.log(2 * math.pi)).sum())
