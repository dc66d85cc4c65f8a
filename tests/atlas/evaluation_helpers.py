"""A small linear model with the interface of a trained one: principal components of maps, a linear effect of m."""

import numpy as np
import torch

from neuromf.atlas.baselines import fit_pca
from neuromf.atlas.kernel_maps import kernel_maps
from neuromf.atlas.metadata import encode, fit_schema


class LinearAtlas:
    """Decoder mean + (z s) components + m B: a real linear model, fitted in closed form."""

    def __init__(self, studies, grid, z_dim=6, conditional=True, seed=0):
        train = studies.take(studies.rows("train"))
        maps = kernel_maps(train, grid, 12.0, dtype=np.float32)
        self.grid, self.schema = grid, fit_schema(train) if conditional else None
        self.mean, effect = maps.mean(0), 0.0
        if conditional:
            values, observed = encode(train, self.schema)
            self.center = values.mean(0)
            x = np.where(observed, values - self.center, 0).astype(np.float64)
            self.effect = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (maps - self.mean))
            effect = x @ self.effect
        pca = fit_pca((maps - self.mean - effect).astype(np.float32), z_dim, seed)
        self.components, self.std = pca.components_, np.sqrt(pca.explained_variance_)
        self.z_dim = len(self.std)

    def base(self, m, n):
        base = np.repeat(self.mean[None].astype(np.float64), n, 0)
        if m is None or self.schema is None:
            return base
        values = m.double().numpy()
        return base + np.where(np.isfinite(values), values - self.center, 0) @ self.effect

    def decode(self, z, m=None, own=None):
        maps = self.base(m, len(z)) + (z.double().numpy() * self.std) @ self.components
        return torch.from_numpy(self.grid.volume(maps))

    def encode(self, maps, m=None):
        vectors = self.grid.vector(maps.double().numpy())
        z = (vectors - self.base(m, len(maps))) @ self.components.T / self.std
        return torch.from_numpy(z).float(), torch.full(z.shape, -4.0)
