"""The atlas as four ONNX files for programs without torch: encoder and decoder of the volume and of the point model.

    volume_encoder  maps (B, I, J, K), m (B, d_m), observed (B, d_m)               -> mu (B, d), logvar (B, d)
    volume_decoder  z (B, d), m, observed                                          -> maps (B, I, J, K)
    point_encoder   points (B, 30, 3) in mm, mask (B, 30), m, observed             -> mu (B, d), logvar (B, d)
    point_decoder   z (B, d), m, observed                                          -> points (B, 30, 3) in mm

`observed` and `mask` are 1 or 0; unconditional models have no m and observed. Each file holds the SHA-256 of its
checkpoint, and `open_session` refuses a file of another checkpoint. models.json lists inputs, outputs, digests and the
measured parity; example.json holds one input for programs in other languages. Requires the extra `onnx`.
"""

import copy
import functools
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuromf.atlas import guards
from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.atlas.point_vae import INSIDE, PointAtlas, PointVAE, load_points
from neuromf.atlas.volume_vae import MetadataResidual
from neuromf.core.files import atomic_write, sha256, write_json
from neuromf.core.seeds import generator
from neuromf.report.release.atlas_tables import read_source
from neuromf.report.release.onnx import BOUND, require_packages

logger = logging.getLogger(__name__)

OPSET = 17
BATCHES = (1, 2)  # sizes at which parity is measured; files are traced with another one
TRACED = 3
LIST, EXAMPLE = "models.json", "example.json"
CHECKPOINT = "checkpoint_sha256"  # metadata key of the digest


class VolumeEncoder(nn.Module):
    """Maps (B, I, J, K) to posterior mean and log-variance."""

    def __init__(self, atlas: Atlas) -> None:
        super().__init__()
        self.model = copy.deepcopy(atlas.model).eval()

    def forward(self, maps: Tensor, *known: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encoder(maps[:, None], condition_of(self.model, known))


class InterpolatedResidual(nn.Module):
    """`MetadataResidual` with its basis interpolated once: a product of matrices, which all runtimes have."""

    fields: Tensor

    def __init__(self, residual: MetadataResidual, mask: Tensor) -> None:
        super().__init__()
        self.coefficients = residual.coefficients
        i, j, k = residual.shape
        fine = nn.functional.interpolate(residual.basis.detach()[None], scale_factor=2, mode="trilinear")
        self.register_buffer("fields", fine[0, :, :i, :j, :k][:, mask])

    def forward(self, condition: Tensor, _: Tensor) -> Tensor:
        return self.coefficients(condition) @ self.fields[:-1] + self.fields[-1]


class VolumeDecoder(nn.Module):
    """Latents (B, d) to maps or intensities (B, I, J, K), zero outside the mask.

    Masks are applied as indices: exported boolean masks fix the batch size.

    Raises:
        ValueError: If the model decodes intensities without metadata.
    """

    model: Any  # torch does not declare the types of submodules
    inside: Tensor
    places: Tensor

    def __init__(self, atlas: Atlas) -> None:
        super().__init__()
        self.model, self.shape = copy.deepcopy(atlas.model).eval(), atlas.grid.shape
        if self.model.recon == "poisson" and not self.model.n_metadata:
            raise ValueError("the export of intensities needs a conditional model: train the preset cvae")
        if isinstance(residual := getattr(self.model, "residual", None), MetadataResidual):
            self.model.residual = InterpolatedResidual(residual, self.model.mask)  # equal
        places = torch.from_numpy(atlas.grid.lookup).flatten()
        self.register_buffer("inside", (places >= 0).nonzero().flatten())
        self.register_buffer("places", torch.where(places < 0, int(atlas.grid.n_voxels), places))

    def forward(self, z: Tensor, *known: Tensor) -> Tensor:
        model, condition = self.model, condition_of(self.model, known)
        values = model.decoder(z, condition)[:, :1].flatten(1)[:, self.inside]
        if model.recon == "poisson":
            log_density, log_count = model.classical(known[0], known[1] > 0.5, condition, None)
            values = (log_density + values + model.residual(condition, model.mask)).log_softmax(1)
            values = (values + log_count[:, None]).exp()
        else:
            values = values + model.mean_map
        padded = torch.cat([values, torch.zeros_like(values[:, :1])], 1)  # the last entry is outside the mask
        return padded[:, self.places].reshape(-1, *self.shape)


class PointEncoder(nn.Module):
    """Point sets (B, N, 3) with masks (B, N) to posterior mean and log-variance."""

    def __init__(self, atlas: PointAtlas) -> None:
        super().__init__()
        self.model = copy.deepcopy(atlas.model).eval()
        self.model.to_raw = functools.partial(to_raw, self.model)  # type: ignore[method-assign]

    def forward(self, points: Tensor, mask: Tensor, *known: Tensor) -> tuple[Tensor, Tensor]:
        m, observed = (known[0], known[1] > 0.5) if known else (None, None)
        return self.model.encode(points, mask > 0.5, m, observed)


def to_raw(model: PointVAE, points: Tensor) -> Tensor:
    """`PointVAE.to_raw` by logarithms: the exporter has no inverse hyperbolic tangent."""
    inside = ((2 * points - model.low - model.high) / (model.high - model.low)).clamp(-INSIDE, INSIDE)
    return 0.5 * ((1 + inside).log() - (1 - inside).log())


class PointDecoder(nn.Module):
    """Latents (B, d) to points (B, n_points, 3) in mm."""

    model: Any

    def __init__(self, atlas: PointAtlas) -> None:
        super().__init__()
        self.model = copy.deepcopy(atlas.model).eval()

    def forward(self, z: Tensor, *known: Tensor) -> Tensor:
        inputs = torch.cat([z, known[0] * known[1], known[1]], 1) if known else z
        raw = self.model.linear_decoder(z) + self.model.decoder(inputs)
        return self.model.from_raw(raw.reshape(-1, self.model.n_points, 3))


def condition_of(model: Any, known: Sequence[Tensor]) -> Tensor | None:  # noqa: ANN401 - a module of any model
    """Condition vector of m and observed entries; None for an unconditional model."""
    return model.condition(known[0], known[1] > 0.5) if known else None


def export_onnx(
    *, studies: str | Path, checkpoint: str | Path, points: str | Path, out: str | Path, seed: int = 0
) -> None:
    """Write the four files, models.json and example.json into a folder, and compare onnxruntime with torch.

    Arguments:
        studies: Folder of studies, for scale and licence.
        checkpoint: Checkpoint of the volume model.
        points: Checkpoint of the point model.
        out: Folder to write.

    Raises:
        SystemExit: If a package of the extra `onnx` is missing.
        ValueError: If onnxruntime and torch differ by more than BOUND, or scales are mixed.
    """
    require_packages()
    source, out = read_source(studies), Path(out)
    volume, cloud = load_atlas(checkpoint), load_points(points)
    guards.common_scale({"studies": source["scale"], "volume": volume.card["scale"], "points": cloud.card["scale"]})
    out.mkdir(parents=True, exist_ok=True)
    stated = {key: str(source.get(key, "")) for key in ("scale", "source", *guards.LICENCE_KEYS)}
    rows = {}
    for name, (net, inputs, outputs) in networks(volume, cloud, seed).items():
        digest = sha256(checkpoint if name.startswith("volume") else points)
        write_network(net, inputs(TRACED), outputs, out / f"{name}.onnx", {**stated, CHECKPOINT: digest})
        error = parity(out / f"{name}.onnx", digest, net, {n: inputs(n) for n in BATCHES})
        rows[name] = {"inputs": list(inputs(1)), "outputs": outputs, CHECKPOINT: digest, "max_error": error,
                      "sha256": sha256(out / f"{name}.onnx")}  # fmt: skip
        logger.info("%s: onnxruntime and torch differ by at most %.2g", name, error)
    statement = guards.statement(source["scale"])
    write_json(out / LIST, {**stated, "statement": statement, "bound": BOUND, "batches": list(BATCHES), "models": rows})
    write_example(volume, out / EXAMPLE, seed)


def networks(volume: Atlas, cloud: PointAtlas, seed: int = 0) -> dict[str, tuple[nn.Module, Any, list[str]]]:
    """Network, function from batch size to named inputs, and names of outputs, for each file."""
    grid, shape = volume.grid, (cloud.model.n_points, 3)
    mask = torch.from_numpy(grid.mask)

    def drawn(name: str, n: int, *size: int) -> Tensor:
        return torch.randn((n, *size), generator=generator("onnx", seed, name, n))

    def known(n: int, width: int) -> dict[str, Tensor]:
        filled = (drawn("observed", n, width) > -0.5).float()
        return {"m": drawn("m", n, width).abs() * filled, "observed": filled} if width else {}

    def point_sets(n: int) -> dict[str, Tensor]:
        some = (torch.arange(shape[0]) < shape[0] - 2 * torch.arange(1, n + 1)[:, None]).float()
        return {"points": 25 * drawn("points", n, *shape), "mask": some}

    d_volume, d_points = volume.model.n_metadata, cloud.model.n_metadata
    return {
        "volume_encoder": (VolumeEncoder(volume),
                           lambda n: {"maps": drawn("maps", n, *grid.shape).abs() * mask, **known(n, d_volume)},
                           ["mu", "logvar"]),
        "volume_decoder": (VolumeDecoder(volume),
                           lambda n: {"z": drawn("z", n, volume.z_dim), **known(n, d_volume)}, ["maps"]),
        "point_encoder": (PointEncoder(cloud), lambda n: point_sets(n) | known(n, d_points), ["mu", "logvar"]),
        "point_decoder": (PointDecoder(cloud),
                          lambda n: {"z": drawn("z", n, cloud.model.z_dim), **known(n, d_points)}, ["points"]),
    }  # fmt: skip


def write_network(
    net: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path, about: Mapping[str, str]
) -> None:
    """Write a network with a free batch size and metadata; equal weights give equal bytes.

    The exporter that traces is used: it needs seconds, the one that compiles needs minutes.
    """
    import onnx

    names, buffer = list(inputs), io.BytesIO()
    axes = {name: {0: "batch"} for name in (*names, *outputs)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # constants of the trace that do not depend on the batch
        torch.onnx.export(
            net, tuple(inputs.values()), buffer, dynamo=False, opset_version=OPSET, input_names=names,  # type: ignore[arg-type]  # takes files
            output_names=list(outputs), dynamic_axes=axes,
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(sorted(about.items())))
    onnx.checker.check_model(model)
    with atomic_write(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))


def open_session(path: str | Path, checkpoint: str) -> Any:  # noqa: ANN401  # a session of onnxruntime
    """A session of onnxruntime for a file of this checkpoint.

    Arguments:
        path: ONNX file.
        checkpoint: SHA-256 of the checkpoint that the file must come from.

    Raises:
        ValueError: If the file comes from another checkpoint, or states none.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map.get(CHECKPOINT, "")
    if found != checkpoint:
        raise ValueError(
            f"{path} was exported from checkpoint {found[:12] or 'unknown'}, not from {checkpoint[:12]}: export again"
        )
    return session


def parity(path: Path, checkpoint: str, net: nn.Module, batches: Mapping[int, Mapping[str, Tensor]]) -> float:
    """Largest difference of onnxruntime and torch over batches, relative to the largest value of each output.

    Raises:
        ValueError: If it is above BOUND, or not a number.
    """
    session, worst = open_session(path, checkpoint), 0.0
    for inputs in batches.values():
        with torch.no_grad():
            expected = net(*inputs.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        worst = max([worst, *(difference(a, b.numpy()) for a, b in zip(found, expected, strict=True))])
    if not worst <= BOUND:
        raise ValueError(f"{path}: onnxruntime and torch differ by {worst:.2g}, the bound is {BOUND:g}")
    return worst


def difference(a: NDArray, b: NDArray) -> float:
    """Largest absolute difference of two arrays over the largest value of b; infinite for other shapes.

    Intensities of foci are about .001 per voxel: an absolute bound would accept any map.
    """
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-12))


def write_example(volume: Atlas, path: Path, seed: int = 0) -> None:
    """Write z, m and observed of one map (topic 1, latent drawn from N(0, I)) and the map that torch decodes."""
    z = torch.randn((1, volume.z_dim), generator=generator("onnx example", seed))
    topics = [field.columns for field in volume.schema.fields if field.kind == "topics"] if volume.schema else []
    m = volume.metadata(topics=np.eye(len(topics[0]), dtype=np.float32)[0]) if topics else None
    decoded = volume.decode(z, m)[0].numpy()
    known = {} if m is None else {"m": m.nan_to_num()[0].tolist(), "observed": m.isfinite()[0].float().tolist()}
    shape = list(decoded.shape)
    write_json(path, {"z": z[0].tolist(), **known, "shape": shape, "map": decoded.ravel().tolist()}, indent=None)
