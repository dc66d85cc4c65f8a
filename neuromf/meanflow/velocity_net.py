"""The average velocity u(z, t, r), from a network that predicts u or the data x, relative to a Gaussian prior."""

import torch
from torch import Tensor, nn

from neuromf.meanflow import flow
from neuromf.meanflow.gaussian_prior import GaussianPrior

PREDICTIONS = ("u", "x")


class MeanVelocityNet(nn.Module):
    """u(z, t, r) from a network that predicts u, or x with u = (z - x) / t.

    With a prior, the network predicts the deviation from the prior's posterior mean. Inputs and output then have unit
    variance at every t (EDM preconditioning, section 5): the inputs are the whitened residual of z and the posterior
    mean; the output is multiplied by the posterior standard deviation of x given z.

    In training t is clipped at T_MIN in the division, as in the regression target. In evaluation it is not, since
    steps below T_MIN would end before r.

    Arguments:
        net: Network, called as net(z, t, r).
        prediction: "u" or "x".
        prior: Gaussian prior of an x-prediction, or None.
        velocity_head: Whether the network has twice the output channels: u, and a second head for the
            instantaneous velocity v (iMF).
    """

    EVALUATION_T_MIN = 1e-4  # keeps the division finite at t = 0, where no sampling step starts

    def __init__(
        self, net: nn.Module, prediction: str, prior: GaussianPrior | None = None, *, velocity_head: bool = False
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")
        self.net, self.prediction, self.prior, self.velocity_head = net, prediction, prior, velocity_head

    def outputs(self, z: Tensor, t: Tensor, r: Tensor, t_min: float | None = None) -> Tensor:
        """u (B, C, ...), or u and v concatenated along the channels if there is a velocity head."""
        if self.prediction == "u":
            return self.net(z, t, r)
        x = self.net(z, t, r) if self.prior is None else self.add_residual(self.prior, z, t, r)
        t_min = t_min or (flow.T_MIN if self.training else self.EVALUATION_T_MIN)
        return flow.velocity_from_data(x, self.per_head(z), t, t_min)

    def add_residual(self, prior: GaussianPrior, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Predicted x of each output head: the prior's prediction plus the network's residual."""
        with torch.autocast(z.device.type, enabled=False):  # only the network is computed in lower precision
            whitened, x_prior = prior.whiten(z, t, r)
        residual = self.net(torch.cat([whitened, x_prior], dim=1), t, r).to(z).split(z.shape[1], dim=1)
        with torch.autocast(z.device.type, enabled=False):
            return self.per_head(x_prior) + torch.cat([prior.posterior_noise(part, t) for part in residual], dim=1)

    def per_head(self, a: Tensor) -> Tensor:
        """`a` (B, C, ...), repeated along the channels for each output head."""
        return torch.cat([a, a], dim=1) if self.velocity_head else a

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.outputs(z, t, r)[:, : z.shape[1]]
