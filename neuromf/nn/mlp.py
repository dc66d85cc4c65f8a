"""A residual MLP u(z, t, r) on vectors, for the toy torus and the latents of the atlas."""

from torch import Tensor, nn

from neuromf.nn.embeddings import Conditioning
from neuromf.nn.forward_mode import LayerNorm


class MLP(nn.Module):
    """Residual network u(z, t, r) on vectors z (B, D). SiLU is smooth, hence so is du/dt.

    Arguments:
        dim: Inputs D.
        outputs: Outputs; D if None.
        width: Width of the hidden layers.
        depth: Residual blocks.
        conditioning: See `Conditioning`.
    """

    def __init__(
        self, dim: int, outputs: int | None = None, *, width: int = 128, depth: int = 3, conditioning: str = "t-h"
    ) -> None:
        super().__init__()
        self.inlet, self.outlet = nn.Linear(dim, width), nn.Linear(width, outputs or dim)
        self.time_embed = Conditioning(width, conditioning)
        self.blocks = nn.ModuleList(
            nn.Sequential(LayerNorm(width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        nn.init.zeros_(self.outlet.weight)

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        hidden, time = self.inlet(z), self.time_embed(t, r)
        for block in self.blocks:
            hidden = hidden + block(hidden + time)
        return self.outlet(nn.functional.silu(hidden))
