"""Conditional beta-VAE of activation maps: FiLM in encoder and decoder, and a decoder that starts at a closed form.

With `recon: poisson` the decoder returns the intensity per voxel of an inhomogeneous Poisson process of foci,
lambda(x) = n(m) softmax(log f(x | m) + g(x, m) + h(x, z, m)). f is the best classical density (mixture of topic KDEs,
mixed with the kernel map of observed foci in completion), n the expected number of foci, g a low-rank change by the
metadata, and h the convolutional decoder. g and the last layer of h are zero at initialisation: training starts at the
classical model. Decoders of maps add to the mean map.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from neuromf.nn.densenet3d import dense_blocks
from neuromf.nn.fast_upsampling import ResizeStage, trilinear
from neuromf.nn.film import FiLM
from neuromf.nn.receptive_field import main_path, receptive_field
from neuromf.nn.resnet3d import group_norm, resnet10_blocks, run_block

BACKBONES = {"resnet10": resnet10_blocks, "densenet": dense_blocks}
RECON = ("mse_sum", "gauss", "poisson")
MIN_FIELD_MM = 150.0
LOGVAR = (-10.0, 3.0)  # bounds of the log-variance of a voxel and of a latent dimension
TOPIC_SCALE = 6.0  # of topic weights in the condition, which are about 1 / 50
RANK = 48  # of the change of the log-density by metadata
FLOOR = 1e-7  # density added to the classical density, so that its logarithm is finite


class ConditionalEncoder(nn.Module):
    """Posterior mean and log-variance (B, d) of maps (B, 1, I, J, K), with a FiLM layer behind each block.

    Arguments:
        shape: Sides I, J, K; any.
        spacing_mm: Voxel size. The stem has kernel 7 below 4 mm, else 3.
        z_dim: Latent dimensions d.
        condition_dim: Dimensions of the condition; None for no FiLM.
        backbone: "resnet10" or "densenet".
        width: Channels of the first stage.
        depth: Stages.

    Raises:
        ValueError: If the receptive field is at most 150 mm.
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing_mm: float,
        z_dim: int,
        condition_dim: int | None,
        *,
        backbone: str = "resnet10",
        width: int = 8,
        depth: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"atlas.backbone must be one of {', '.join(BACKBONES)}; got {backbone!r}")
        kernel = 7 if spacing_mm < 4 else 3
        self.stem = nn.Sequential(
            nn.Conv3d(1, width, kernel, 2, padding=kernel // 2, bias=False), group_norm(width), nn.ReLU(inplace=True)
        )
        blocks, widths = BACKBONES[backbone](width, depth)
        self.blocks = nn.ModuleList(blocks)
        self.films = nn.ModuleList(FiLM(condition_dim, n) for n in widths) if condition_dim else None
        self.field_mm = receptive_field(main_path(nn.Sequential(self.stem, *blocks))) * spacing_mm
        if self.field_mm <= MIN_FIELD_MM:
            raise ValueError(f"the receptive field is {self.field_mm:.0f} mm, and must exceed {MIN_FIELD_MM:g} mm: "
                             f"raise atlas.depth (now {depth})")  # fmt: skip
        cells = math.prod(math.ceil(side / 2**depth) for side in shape)
        self.mu, self.logvar = nn.Linear(widths[-1] * cells, z_dim), nn.Linear(widths[-1] * cells, z_dim)
        self.checkpointing = checkpointing

    def forward(self, maps: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.stem(maps)
        for k, block in enumerate(self.blocks):
            h = run_block(block, h, self.checkpointing and self.training)
            h = h if self.films is None else self.films[k](h, condition)
        features = h.flatten(1)
        return self.mu(features), self.logvar(features).clamp(*LOGVAR)


class ConditionalDecoder(nn.Module):
    """Maps (B, C, I, J, K) of z (B, d) and a condition: a linear layer to a small map, x2 stages with FiLM, crop.

    Arguments:
        depth: Number of x2 stages.
        last_width: Channels of the last stage; earlier stages have twice as many each.
        stride: Voxels between computed values, which are interpolated linearly; 1 computes every voxel.
    """

    def __init__(
        self,
        shape: Sequence[int],
        z_dim: int,
        condition_dim: int | None,
        *,
        channels: int = 1,
        last_width: int = 8,
        depth: int = 2,
        stride: int = 1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.stride, self.checkpointing = tuple(shape), stride, checkpointing
        widths = [last_width * 2 ** (depth - k) for k in range(depth + 1)]
        self.map_shape = (widths[0], *(math.ceil(side / (stride * 2**depth)) for side in shape))
        self.linear = nn.Linear(z_dim + (condition_dim or 0), math.prod(self.map_shape))
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.ModuleList(ResizeStage(inputs, outputs) for inputs, outputs in pairs)
        self.films = nn.ModuleList(FiLM(condition_dim, n) for n in widths[1:]) if condition_dim else None
        self.last = nn.Conv3d(last_width, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # it has a bias

    def forward(self, z: Tensor, condition: Tensor | None) -> Tensor:
        inputs = z if condition is None else torch.cat([z, condition], dim=1)
        h = self.linear(inputs).unflatten(1, self.map_shape)
        for k, block in enumerate(self.blocks):
            h = run_block(block, h, self.checkpointing and self.training)
            h = h if self.films is None else self.films[k](h, condition)
        values = self.last(h)
        if self.stride > 1:
            values = trilinear(values)
        i, j, k = self.shape
        return values[:, :, :i, :j, :k]


class ClassicalDensity(nn.Module):
    """Log-density (B, V) of foci of the best classical models, and log of the expected number of foci (B,).

    f(x | m) = (1 - a) [.9 sum_t w_t(m) f_t(x) + .1 f_0(x)] + a own(x): topic KDEs f_t with the squared topic weights
    w_t, global KDE f_0, and the normalised kernel map `own` of observed foci with a = sigmoid(a_0 + b c) of the
    condition c; a = 0 without observed foci. Without topics f is the global KDE.

    Arguments:
        densities: Arrays of `fit_densities`: global (V,), topics (T, V), count_weights (d_m,), count_bias ().
        topic_columns: First and last + 1 column of the topic weights in m; None for none.
        condition_dim: Dimensions of the condition.
        own_weight: Initial a.
        global_weight: Weight of f_0 in the mixture of topics.
    """

    global_density: Tensor
    topic_densities: Tensor

    def __init__(
        self,
        densities: Mapping[str, Tensor],
        topic_columns: Sequence[int] | None,
        condition_dim: int | None,
        *,
        own_weight: float = 0.35,
        global_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.topic_columns = None if topic_columns is None else slice(*topic_columns)
        self.global_weight = global_weight
        self.register_buffer("global_density", densities["global"].float())
        self.register_buffer("topic_densities", densities["topics"].float())
        self.count_weights = nn.Parameter(densities["count_weights"].float().clone())
        self.count_bias = nn.Parameter(densities["count_bias"].float().clone())
        self.own_bias = nn.Parameter(torch.tensor(math.log(own_weight / (1 - own_weight))))
        self.own_weights = nn.Parameter(torch.zeros(condition_dim or 1))

    def forward(
        self, m: Tensor, observed: Tensor, condition: Tensor | None, own: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        density = self.conditional(m, observed)
        if own is not None:
            total = own.sum(1, keepdim=True)
            logit = self.own_bias if condition is None else self.own_bias + condition @ self.own_weights
            weight = torch.where(total > 0, logit.sigmoid().expand(len(own))[:, None], 0.0)
            density = (1 - weight) * density + weight * own / total.clamp(min=FLOOR)
        return (density + FLOOR).log(), (m * observed) @ self.count_weights + self.count_bias

    def conditional(self, m: Tensor, observed: Tensor) -> Tensor:
        """f(x | m) without observed foci, (B, V)."""
        if self.topic_columns is None or not len(self.topic_densities):
            return self.global_density.expand(len(m), -1)
        weights = (m * observed)[:, self.topic_columns].clamp(min=0).square()
        total = weights.sum(1, keepdim=True)
        mixture = (weights / total.clamp(min=FLOOR)) @ self.topic_densities
        share = torch.where(total > 0, 1 - self.global_weight, 0.0)
        return share * mixture + (1 - share) * self.global_density


class MetadataResidual(nn.Module):
    """Change g (B, V) of the log-density by the condition: sum_k a_k(c) B_k(x) + B_0(x), zero at initialisation.

    The basis B is stored on every second voxel and interpolated linearly.
    """

    def __init__(self, condition_dim: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.coefficients = nn.Linear(condition_dim, RANK)
        self.basis = nn.Parameter(torch.zeros(RANK + 1, *(math.ceil(side / 2) for side in shape)))

    def forward(self, condition: Tensor, voxels: Tensor) -> Tensor:
        i, j, k = self.shape
        coarse = torch.einsum("bk,kxyz->bxyz", self.coefficients(condition), self.basis[:-1]) + self.basis[-1]
        return trilinear(coarse[:, None])[:, 0, :i, :j, :k].flatten(1)[:, voxels]


class VolumeVAE(nn.Module):
    """Conditional beta-VAE of maps on a masked grid.

    Arguments:
        mask: Voxels inside the brain, bool (I, J, K).
        spacing_mm: Voxel size.
        mean_map: Mean training map in the mask (V,), to which decoders of maps add; ignored by "poisson".
        n_metadata: Columns d_m of the metadata vector; 0 for an unconditional model.
        densities: Arrays of `ClassicalDensity`; needed by "poisson".
        topic_columns: See `ClassicalDensity`.
        z_dim: Latent dimensions.
        recon: "mse_sum" (maps), "gauss" (maps and log-variances) or "poisson" (intensities).
        backbone, width, depth: See `ConditionalEncoder`.
        decoder_width, decoder_depth, decoder_stride: See `ConditionalDecoder`.
        condition_dim: Width of the condition vector c = MLP(m, observed).
        checkpointing: Recompute activations in the backward pass.
    """

    mask: Tensor
    voxels: Tensor
    mean_map: Tensor
    input_scale: Tensor

    def __init__(
        self,
        mask: Tensor,
        spacing_mm: float,
        mean_map: Tensor,
        *,
        n_metadata: int = 0,
        densities: Mapping[str, Tensor] | None = None,
        topic_columns: Sequence[int] | None = None,
        z_dim: int = 32,
        recon: str = "mse_sum",
        backbone: str = "resnet10",
        width: int = 8,
        depth: int = 4,
        decoder_width: int = 8,
        decoder_depth: int = 2,
        decoder_stride: int = 1,
        condition_dim: int = 64,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if recon not in RECON:
            raise ValueError(f"atlas.recon must be one of {', '.join(RECON)}; got {recon!r}")
        self.z_dim, self.n_metadata, self.recon = z_dim, n_metadata, recon
        self.register_buffer("mask", mask.bool())
        self.register_buffer("voxels", mask.flatten().nonzero()[:, 0], persistent=False)
        self.register_buffer("mean_map", mean_map.float())
        scale = torch.ones(n_metadata)
        if topic_columns is not None:
            scale[slice(*topic_columns)] = TOPIC_SCALE
        self.register_buffer("input_scale", scale)
        shape, dim = tuple(mask.shape), condition_dim if n_metadata else None
        self.embed = (
            nn.Sequential(nn.Linear(2 * n_metadata, condition_dim), nn.SiLU(), nn.Linear(condition_dim, condition_dim))
            if n_metadata
            else None
        )
        self.encoder = ConditionalEncoder(
            shape, spacing_mm, z_dim, dim, backbone=backbone, width=width, depth=depth, checkpointing=checkpointing
        )
        self.decoder = ConditionalDecoder(
            shape, z_dim, dim, channels=2 if recon == "gauss" else 1, last_width=decoder_width, depth=decoder_depth,
            stride=decoder_stride, checkpointing=checkpointing,
        )  # fmt: skip
        self.classical: ClassicalDensity | None = None
        if recon == "poisson":
            if densities is None:
                raise ValueError("atlas.recon poisson starts at the classical densities, which are missing")
            self.classical = ClassicalDensity(densities, topic_columns, dim)
            self.residual = MetadataResidual(condition_dim, shape) if dim else None

    def condition(self, m: Tensor, observed: Tensor) -> Tensor | None:
        """Condition vector (B, c) of metadata (B, d_m); entries that are not observed have no influence."""
        if self.embed is None:
            return None
        known = observed.to(m.dtype)
        return self.embed(torch.cat([m.nan_to_num() * known * self.input_scale, known], dim=1))

    def metadata(self, m: Tensor | None, observed: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """Metadata and observed entries of a batch of n; None means that nothing, or everything finite, is observed."""
        if m is None:
            empty = self.mean_map.new_zeros(n, self.n_metadata)
            return empty, empty.bool()
        observed = m.isfinite() if observed is None else observed & m.isfinite()
        return m.nan_to_num(), observed

    def encode(self, maps: Tensor, m: Tensor | None = None, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance (B, d) of maps (B, 1, I, J, K)."""
        return self.encoder(maps, self.condition(*self.metadata(m, observed, len(maps))))

    def log_intensity(
        self, z: Tensor, m: Tensor | None = None, observed: Tensor | None = None, own: Tensor | None = None
    ) -> Tensor:
        """Logarithm of the intensity of foci per voxel, (B, V); "poisson" only.

        Arguments:
            z: Latents (B, d). m, observed: Metadata (B, d_m), or (1, d_m) for all latents.
            own: Kernel maps of observed foci in the mask, (B, V) or (1, V), for completion; a row of zeros has none.
        """
        assert self.classical is not None
        m, observed = self.metadata(m, observed, len(z) if own is None else len(own))
        condition = self.condition(m, observed)
        log_density, log_count = self.classical(m, observed, condition, own)
        if self.residual is not None and condition is not None:
            log_density = log_density + self.residual(condition, self.voxels)
        return (log_density + self.decoded(z, condition)[:, 0]).log_softmax(1) + log_count[:, None]

    def decoded(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Output of the decoder in the mask, (B, C, V), float32; a single condition (1, c) holds for all latents."""
        values = self.decoder(z, None if condition is None else condition.expand(len(z), -1))
        return values.flatten(2)[:, :, self.voxels].float()

    def decode(
        self, z: Tensor, m: Tensor | None = None, observed: Tensor | None = None, own: Tensor | None = None
    ) -> Tensor:
        """Maps, maps and log-variances, or intensities: (B, 1 or 2, I, J, K), zero outside the mask.

        Arguments: See `log_intensity`.
        """
        if self.recon == "poisson":
            values = self.log_intensity(z, m, observed, own).exp()[:, None]
        else:
            values = self.decoded(z, self.condition(*self.metadata(m, observed, len(z))))
            values = torch.cat([values[:, :1] + self.mean_map, values[:, 1:].clamp(*LOGVAR)], dim=1)
        out = values.new_zeros(*values.shape[:2], self.mask.numel())
        out[:, :, self.voxels] = values
        return out.unflatten(2, self.mask.shape)
