"""The average velocity as a network u(z, t, r): a 3D UNet for latents, an MLP for the torus, and their EMA.

Times enter RAW, in [0, 1]: multiplied by 1000, as diffusion code does, the sinusoids turn a thousand radians
over the path, du/dt drowns in their phase and one-step generation dies while the losses look normal.
The network is told t and h = t - r, each by an embedding of its own, summed.

A network predicts either u itself or the data x; `MeanVelocityNet` turns the latter into u = (z - x) / max(t, T_MIN).
"""

import copy
import math
from typing import Any

import torch
from einops import rearrange
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from neuromf import flow
from neuromf.gaussian import GaussianFlow
from neuromf.layers import lean_forward_mode

PREDICTIONS = ("u", "x")
CONDITIONINGS = {  # what a network is told of an interval, from its times t and r: two numbers or one
    "t-h": lambda t, r: (t, t - r),
    "t-r": lambda t, r: (t, r),
    "h": lambda t, r: (t - r,),
}
N_POSITIONS = 21  # channels of `positions`


class TimeEmbedding(nn.Module):
    """Sinusoids of a raw time in [0, 1] through a two-layer SiLU network: (B,) to (B, width)."""

    rates: Tensor

    def __init__(self, width: int, n_sinusoids: int = 64, max_period: float = 10_000.0) -> None:
        super().__init__()
        half = n_sinusoids // 2
        self.register_buffer("rates", torch.exp(-math.log(max_period) * torch.arange(half) / half), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.rates
        return self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))


class GapEmbedding(TimeEmbedding):
    """The same of h = t - r, as what it adds to h = 0; at first nothing.

    Flow matching alone (r = t) thus leaves it as it is, and when intervals open u(z, t, r) does not depend on r yet.
    Trained at h = 0 alone, an embedding is whatever it happens to be elsewhere.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.layers[-1] = last = nn.Linear(width, width, bias=False)
        nn.init.zeros_(last.weight)

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(t) - super().forward(torch.zeros_like(t))


class Conditioning(nn.Module):
    """Times (B,), (B,) to (B, width): the sum of one embedding for each number of `CONDITIONINGS[name]`.

    Arguments:
        width: Of an embedding.
        name: Which numbers of the interval are told.
        flow_first: Whether training starts with r = t alone, so that h is best told by a `GapEmbedding`.
    """

    def __init__(self, width: int, name: str = "t-h", *, flow_first: bool = False) -> None:
        super().__init__()
        if name not in CONDITIONINGS:
            raise ValueError(f"conditioning must be one of {', '.join(CONDITIONINGS)}; got {name!r}")
        self.name = name
        gap = GapEmbedding if flow_first and name == "t-h" else TimeEmbedding
        self.embeddings = nn.ModuleList([TimeEmbedding(width), *(gap(width) for _ in name.split("-")[1:])])

    def forward(self, t: Tensor, r: Tensor) -> Tensor:
        told = CONDITIONINGS[self.name](t, r)
        return sum(embedding(number) for embedding, number in zip(self.embeddings, told, strict=True))


def positions(shape: tuple[int, ...], octaves: int = 3) -> Tensor:
    """Where each voxel of a grid lies: its coordinates in [-1, 1] and their sinusoids, (3 + 6 * octaves, I, J, K).

    Heads are aligned, so where a voxel lies says much of what it holds; a convolution alone cannot know.
    """
    axes = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in shape), indexing="ij")
    where = torch.stack(axes)
    waves = [wave(math.pi * 2**k * where / 2) for k in range(octaves) for wave in (torch.sin, torch.cos)]
    return torch.cat([where, *waves])


class UNet(DiffusionModelUNet):
    """MONAI's diffusion UNet, told two raw times and where each voxel lies, behind a space-to-depth of the latent.

    Arguments:
        channels: Channels of the latent, in and out.
        widths: Channels at each resolution; each further one halves the grid.
        res_blocks: Residual blocks at each resolution.
        attention: Whether each resolution has self-attention (plain, since fused kernels have no forward-mode
            derivative).
        head_width: Channels of an attention head.
        patch: Space-to-depth factor: 2 turns 4 x 16^3 into 32 x 8^3 before the first convolution.
        conditioning: Which numbers of the interval it is told, of `CONDITIONINGS`.
        out_channels: Channels it gives where they are not those of the latent.
    """

    def __init__(
        self,
        channels: int,
        *,
        widths: tuple[int, ...],
        res_blocks: int,
        attention: tuple[bool, ...],
        head_width: int = 32,
        norm_groups: int = 16,
        patch: int = 1,
        conditioning: str = "t-h",
        out_channels: int | None = None,
    ) -> None:
        super().__init__(
            spatial_dims=3,
            in_channels=channels * patch**3 + N_POSITIONS,
            out_channels=(out_channels or channels) * patch**3,
            channels=widths,
            num_res_blocks=res_blocks,
            attention_levels=attention,
            num_head_channels=head_width,
            norm_num_groups=norm_groups,
            resblock_updown=True,
            use_flash_attention=False,
        )
        self.patch = patch
        self.stride = patch * 2 ** (len(widths) - 1)
        time = Conditioning(4 * widths[0], conditioning, flow_first=True)
        self.time_embed = time  # type: ignore[assignment]  # instead of MONAI's
        lean_forward_mode(self)

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:  # type: ignore[override]  # two times
        """Output (B, C, I, J, K) at latents z of that shape and times t, r (B,); sizes must divide by `stride`."""
        if any(n % self.stride for n in z.shape[2:]):
            raise ValueError(f"latent sizes must be multiples of {self.stride}; got {tuple(z.shape[2:])}")
        p = self.patch
        time = self.time_embed(t, r)
        z = rearrange(z, "b c (i p) (j q) (k s) -> b (c p q s) i j k", p=p, q=p, s=p)
        where = positions(tuple(z.shape[2:])).to(z).expand(len(z), -1, -1, -1, -1)
        z = self.conv_in(torch.cat([z, where], dim=1))
        skips = [z]
        for down in self.down_blocks:
            z, outputs = down(hidden_states=z, temb=time)
            skips.extend(outputs)
        z = self.middle_block(hidden_states=z, temb=time)
        for up in self.up_blocks:
            n = len(up.resnets)  # type: ignore[arg-type]  # a list of blocks
            z, skips = up(hidden_states=z, res_hidden_states_list=skips[-n:], temb=time), skips[:-n]
        return rearrange(self.out(z), "b (c p q s) i j k -> b c (i p) (j q) (k s)", p=p, q=p, s=p)


class MLP(nn.Module):
    """Residual SiLU network on vectors: u(z, t, r) for z (B, D). Smooth, so that its derivative is one too."""

    def __init__(self, dim: int, *, width: int = 128, depth: int = 3, conditioning: str = "t-h") -> None:
        super().__init__()
        self.inlet, self.outlet = nn.Linear(dim, width), nn.Linear(width, dim)
        self.time_embed = Conditioning(width, conditioning)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        nn.init.zeros_(self.outlet.weight)

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        hidden, time = self.inlet(z), self.time_embed(t, r)
        for block in self.blocks:
            hidden = hidden + block(hidden + time)
        return self.outlet(nn.functional.silu(hidden))


class MeanVelocityNet(nn.Module):
    """u(z, t, r) from a network that predicts u, or the data x and with it u = (z - x) / t.

    In training t is clipped at T_MIN in that division, as it is in the target; in evaluation it is not, or
    steps taken below T_MIN would fall short of their end.

    Arguments:
        net: The network, called as net(z, t, r).
        prediction: "u" or "x".
        base: Of a data prediction: what is known beforehand. The network adds to it, so that training starts
            from the Gaussian that fits the data and learns what is not Gaussian. All that it is shown and gives has
            size one at any time (preconditioning: EDM, section 5): the base's x, what lies off its axes over the
            deviation of that, and what it adds in units of what z leaves open.
        head: Whether the network gives twice the channels: u, and a second head for the instantaneous v (iMF).
    """

    SMALLEST_T = 1e-4  # in evaluation: the division stays finite at t = 0, where no step starts

    def __init__(
        self, net: nn.Module, prediction: str, base: GaussianFlow | None = None, *, head: bool = False
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")
        self.net, self.prediction, self.base, self.head = net, prediction, base, head

    def outputs(self, z: Tensor, t: Tensor, r: Tensor, t_min: float | None = None) -> Tensor:
        """u, or u and v one after the other along the channels where there is a second head; t is clipped at t_min."""
        if self.prediction == "u":
            return self.net(z, t, r)
        x = self.net(z, t, r) if self.base is None else self.beyond(self.base, z, t, r)
        t_min = t_min or (flow.T_MIN if self.training else self.SMALLEST_T)
        return flow.velocity_from_data(x, self.per_head(z), t, t_min)

    def beyond(self, base: GaussianFlow, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """x of the base and what the network adds to it, for each head."""
        off, known = base.shown(z, t, r)
        added = self.net(torch.cat([off, known], dim=1), t, r).split(z.shape[1], dim=1)
        return self.per_head(known) + torch.cat([base.uncertain(one, t) for one in added], dim=1)

    def per_head(self, a: Tensor) -> Tensor:
        """A field (B, C, ...) once for each head."""
        return torch.cat([a, a], dim=1) if self.head else a

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.outputs(z, t, r)[:, : z.shape[1]]


class EMA(nn.Module):
    """Exponential moving average of a network's weights, updated once per optimiser step.

    The decay follows from a half-life in images, so it means the same at any batch size, and rises
    from zero over the first updates so that the random start is forgotten (EDM2, section 3). Weights that are frozen
    are shared with the network, not copied.

    Arguments:
        net: The network to follow.
        halflife_images: Images after which a weight's share has halved.
        rampup: The half-life is never more than this share of the images seen so far.
    """

    net: Any  # of the kind of the network that is followed

    def __init__(self, net: nn.Module, *, halflife_images: float, rampup: float = 0.1) -> None:
        super().__init__()
        frozen = {id(p): p for p in net.parameters() if not p.requires_grad}
        self.net = copy.deepcopy(net, frozen).requires_grad_(False).eval()
        self.halflife_images, self.rampup = halflife_images, rampup

    def decay(self, batch: int, images_seen: int) -> float:
        """Share of the old average that is kept when `batch` images are added to `images_seen`."""
        halflife = min(self.halflife_images, self.rampup * (images_seen + batch))
        return 0.5 ** (batch / max(halflife, 1e-8))

    @torch.no_grad()
    def update(self, net: nn.Module, batch: int, images_seen: int) -> None:
        """Move the average towards the weights of net."""
        weight = 1 - self.decay(batch, images_seen)
        for average, now in zip(self.net.parameters(), net.parameters(), strict=True):
            if now.requires_grad:
                average.lerp_(now, weight)
