"""The average velocity u(z, t, r) from a network that predicts u or the data x, on top of a Gaussian prior."""

import torch
from torch import Tensor, nn

from neuromf.meanflow import flow
from neuromf.meanflow.gaussian_prior import GaussianPrior

PREDICTIONS = ("u", "x")


class MeanVelocityNet(nn.Module):
    """u(z, t, r) from a network that predicts u, or the data x and with it u = (z - x) / t.

    In training t is clipped at T_MIN in that division, as it is in the target; in evaluation it is not, or
    steps taken below T_MIN would fall short of their end.

    Arguments:
        net: The network, called as net(z, t, r).
        prediction: "u" or "x".
        prior: Of a data prediction: what is known beforehand. The network adds to it, so that training starts
            from the Gaussian that fits the data and learns what is not Gaussian. All that it is shown and gives has
            size one at any time (preconditioning: EDM, section 5): the prior's x, what lies off its axes over the
            deviation of that, and what it adds in units of what z leaves open.
        head: Whether the network gives twice the channels: u, and a second head for the instantaneous v (iMF).
    """

    SMALLEST_T = 1e-4  # in evaluation: the division stays finite at t = 0, where no step starts

    def __init__(
        self, net: nn.Module, prediction: str, prior: GaussianPrior | None = None, *, head: bool = False
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")
        self.net, self.prediction, self.prior, self.head = net, prediction, prior, head

    def outputs(self, z: Tensor, t: Tensor, r: Tensor, t_min: float | None = None) -> Tensor:
        """u, or u and v one after the other along the channels where there is a second head; t is clipped at t_min."""
        if self.prediction == "u":
            return self.net(z, t, r)
        x = self.net(z, t, r) if self.prior is None else self.add_residual(self.prior, z, t, r)
        t_min = t_min or (flow.T_MIN if self.training else self.SMALLEST_T)
        return flow.velocity_from_data(x, self.per_head(z), t, t_min)

    def add_residual(self, prior: GaussianPrior, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """x of the prior and what the network adds to it, for each head."""
        off, known = prior.whiten(z, t, r)
        added = self.net(torch.cat([off, known], dim=1), t, r).split(z.shape[1], dim=1)
        return self.per_head(known) + torch.cat([prior.posterior_noise(one, t) for one in added], dim=1)

    def per_head(self, a: Tensor) -> Tensor:
        """A field (B, C, ...) once for each head."""
        return torch.cat([a, a], dim=1) if self.head else a

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.outputs(z, t, r)[:, : z.shape[1]]
