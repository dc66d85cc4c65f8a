"""The one-step generator as one ONNX file, from noise to volume, for programs without torch.

    eps (1, C, i, j, k) -> x = eps - u(eps, t = 1, r = 0) -> denormalise -> decode -> volume (1, 1, I, J, K) in [0, 1]

The file contains network, prior, latent statistics and decoder in float32. The caller draws standard normal noise; the
noise of sample k with seed s is `seeds.noise(s, [k], shape)`. Requires the extra `onnx`.
"""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from neuromf.core import seeds
from neuromf.core.files import atomic_write, write_json
from neuromf.meanflow import flow, sample
from neuromf.meanflow.run import Run, load_run
from neuromf.vae import statistics
from neuromf.vae.maisi import MAISIVAEWrapper
from neuromf.vae.weights import load

logger = logging.getLogger(__name__)

INSTALL = "ONNX export needs the packages onnx, onnxscript and onnxruntime: pip install 'neuromf[onnx]'"
VERBOSE = ("onnxscript", "onnx_ir", "torch.onnx")  # loggers that write a line per node of the graph
BOUND = 1e-4  # largest accepted difference of an intensity in [0, 1] between onnxruntime and torch
Net = TypeVar("Net", bound=nn.Module)


class Generator(nn.Module):
    """The one-step generator as a module that ONNX can represent."""

    def __init__(self, run: Run, vae: MAISIVAEWrapper) -> None:
        super().__init__()
        self.u, self.decoder = use_torch_layers(copy.deepcopy(run.u).cpu()), use_torch_layers(copy.deepcopy(vae).cpu())
        self.stats = {name: run.stats[name] for name in ("mean", "std")}
        self.requires_grad_(False).eval()

    def forward(self, eps: Tensor) -> Tensor:
        x = statistics.denormalise(flow.sample(self.u, eps), self.stats)
        return self.decoder.decode(x).clamp(0, 1)


def use_torch_layers(net: Net) -> Net:
    """Replace subclasses of Conv3d and GroupNorm by torch's own classes, in place."""
    for module in net.modules():
        for kind in (nn.Conv3d, nn.GroupNorm):
            if isinstance(module, kind):
                module.__class__ = kind
    return net


def export(*, model: Path, weights: Path, out: Path, check: Path, study: str, run: str, seed: int, n: int) -> None:
    """Write the generator as ONNX and compare onnxruntime with torch.

    Arguments:
        model: File of the run.
        weights: Autoencoder weights.
        out: ONNX file.
        check: JSON file with the differences between onnxruntime and torch.
        study, run: Names, stored as metadata.
        seed: Seed of the compared samples.
        n: Number of compared samples.

    Raises:
        SystemExit: If a package of the extra `onnx` is missing.
        ValueError: If an intensity differs by more than BOUND.
    """
    require_packages()
    trained, vae = load_run(model), load(weights)
    write(trained, vae, out, {"study": study, "run": run, "weights": sample.digest(trained.u, vae)})
    write_differences(differences(out, trained, vae, seed=seed, numbers=range(n)), check)


def require_packages() -> None:
    """Raise SystemExit with the installation command if a package of the extra `onnx` is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed. {INSTALL}") from error


def write(run: Run, vae: MAISIVAEWrapper, path: Path, about: dict[str, Any]) -> None:
    """Write the ONNX file. Equal weights give equal bytes.

    Arguments:
        run, vae: Networks on any device; they are copied.
        path: ONNX file.
        about: Metadata of the file, text by name.
    """
    require_packages()
    import onnx

    for name in VERBOSE:
        logging.getLogger(name).setLevel(logging.ERROR)
    eps = seeds.noise(0, [0], run.shape)
    with torch.no_grad():
        exported = torch.onnx.export(Generator(run, vae), (eps,), dynamo=True, verbose=False,
                                     input_names=["eps"], output_names=["volume"])  # fmt: skip
    model = without_metadata(exported.model_proto)  # type: ignore[union-attr]  # not None with dynamo
    onnx.helper.set_model_props(model, {name: str(value) for name, value in sorted(about.items())})
    onnx.checker.check_model(model)
    with atomic_write(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))


def without_metadata(model: Any) -> Any:  # noqa: ANN401
    """The model without the exporter's metadata, which contains file paths and source lines of this machine."""
    graph, functions = model.graph, model.functions
    parts = [graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output]
    for part in [*parts, *functions, *(node for function in functions for node in function.node)]:
        del part.metadata_props[:]
    return model


def differences(path: Path, run: Run, vae: MAISIVAEWrapper, *, seed: int, numbers: Sequence[int]) -> dict[str, Any]:
    """Differences between onnxruntime and torch on a CPU.

    Arguments:
        path: ONNX file.
        run, vae: Networks of the file.
        seed: Noise seed.
        numbers: Numbers of the compared samples.

    Returns:
        max_error and mean_error (absolute, intensities in [0, 1]), n, shape, and versions of both packages.
    """
    require_packages()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator, errors = Generator(run, vae), []
    for number in numbers:
        eps = seeds.noise(seed, [number], run.shape)
        with torch.no_grad():
            expected = generator(eps)
        (volume,) = session.run(["volume"], {"eps": eps.numpy()})
        errors.append((torch.from_numpy(volume) - expected).abs())
    error = torch.stack(errors)
    return {
        "max_error": error.max().item(),
        "mean_error": error.mean().item(),
        "n": len(errors),
        "shape": list(expected.shape),
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }


def write_differences(result: dict[str, Any], path: Path) -> None:
    """Write the result of `differences`; raise ValueError if the largest error is above BOUND or NaN."""
    if not result["max_error"] <= BOUND:
        raise ValueError(
            f"onnxruntime {result['versions']['onnxruntime']} and torch differ by up to {result['max_error']:.2g}, the "
            f"bound is {BOUND:g}; install the onnxruntime version of the lock file"
        )
    logger.info("ONNX and torch differ by at most %.2g in %d volumes", result["max_error"], result["n"])
    write_json(path, {**result, "bound": BOUND})
