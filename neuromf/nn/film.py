"""Feature-wise linear modulation: channels of a feature map scaled and shifted by a condition vector.

Reference:
    FiLM: visual reasoning with a general conditioning layer (Perez et al., 2018), arXiv:1709.07871
"""

from torch import Tensor, nn


class FiLM(nn.Module):
    """(1 + dgamma(c)) h + beta(c) of a feature map h (B, C, I, J, K) and a condition c (B, d).

    The last layer is zero at initialisation, so the layer starts as the identity.

    Arguments:
        condition_dim: Dimensions d of the condition.
        channels: Channels C of the feature map.
        hidden: Width of the hidden layer.
    """

    def __init__(self, condition_dim: int, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(condition_dim, hidden), nn.SiLU(), last := nn.Linear(hidden, 2 * channels)
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.layers(condition)[:, :, None, None, None].chunk(2, dim=1)
        return (1 + scale) * h + shift
