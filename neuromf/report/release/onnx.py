"""The one-evaluation generator as one ONNX file: noise in, a volume out, for programs without torch.

    eps (1, C, i, j, k) -> x = eps - u(eps, t = 1, r = 0) -> denormalise -> decode -> volume (1, 1, I, J, K) in [0, 1]

The file holds network, base, statistics and decoder, all in float32. Noise is drawn by whoever calls it: standard
normal, and that of sample k of seed s is `seeds.noise(s, [k], shape)`. One volume at a time.
Needs the packages of the extra `onnx`.
"""

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from neuromf.core import seeds
from neuromf.core.files import atomic_write
from neuromf.meanflow import flow
from neuromf.meanflow.run import Run
from neuromf.vae import statistics
from neuromf.vae.maisi import MAISIVAEWrapper

logger = logging.getLogger(__name__)

INSTALL = "ONNX files need the packages onnx, onnxscript and onnxruntime: pip install 'neuromf[onnx]'"
NOISY = ("onnxscript", "onnx_ir", "torch.onnx")  # a line in the log for every node of the graph
Net = TypeVar("Net", bound=nn.Module)


class Generator(nn.Module):
    """What the file computes, as a module without anything that ONNX has no words for."""

    def __init__(self, run: Run, autoencoder: MAISIVAEWrapper) -> None:
        super().__init__()
        self.u, self.decoder = plain(copy.deepcopy(run.u).cpu()), plain(copy.deepcopy(autoencoder).cpu())
        self.stats = {name: run.stats[name] for name in ("mean", "std")}
        self.requires_grad_(False).eval()

    def forward(self, eps: Tensor) -> Tensor:
        x = statistics.denormalise(flow.sample(self.u, eps), self.stats)
        return self.decoder.decode(x).clamp(0, 1)


def plain(net: Net) -> Net:
    """The same network, in place, with torch's own convolutions and normalisations in the place of ours."""
    for module in net.modules():
        for kind in (nn.Conv3d, nn.GroupNorm):
            if isinstance(module, kind):
                module.__class__ = kind
    return net


def require_packages() -> None:
    """Stop where the packages of the extra are missing, with what to install.

    Raises:
        SystemExit: If one is not there.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed. {INSTALL}") from error


def write(run: Run, autoencoder: MAISIVAEWrapper, path: Path, about: dict[str, Any]) -> None:
    """Write the file, whole or not at all; the same weights give the same bytes.

    Arguments:
        run, autoencoder: On any device; they are copied.
        about: What the file says of itself, as metadata: text by name.
    """
    require_packages()
    import onnx

    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    eps = seeds.noise(0, [0], run.shape)
    with torch.no_grad():
        exported = torch.onnx.export(Generator(run, autoencoder), (eps,), dynamo=True, verbose=False,
                                     input_names=["eps"], output_names=["volume"])  # fmt: skip
    model = nameless(exported.model_proto)  # type: ignore[union-attr]  # dynamo gives one
    onnx.helper.set_model_props(model, {name: str(value) for name, value in sorted(about.items())})
    onnx.checker.check_model(model)
    with atomic_write(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))


def nameless(model: Any) -> Any:  # noqa: ANN401
    """The model without notes of the exporter, which name files of this machine and lines of code."""
    graph, functions = model.graph, model.functions
    parts = [graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output]
    for part in [*parts, *functions, *(node for function in functions for node in function.node)]:
        del part.metadata_props[:]
    return model


def check(path: Path, run: Run, autoencoder: MAISIVAEWrapper, *, seed: int, numbers: Sequence[int]) -> dict[str, Any]:
    """How far onnxruntime is from torch on a CPU, for the samples of these numbers.

    Returns:
        max_error and mean_error, absolute, of intensities in [0, 1]; n, shape, and the versions of both.
    """
    require_packages()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator, errors = Generator(run, autoencoder), []
    for number in numbers:
        eps = seeds.noise(seed, [number], run.shape)
        with torch.no_grad():
            wanted = generator(eps)
        (found,) = session.run(["volume"], {"eps": eps.numpy()})
        errors.append((torch.from_numpy(found) - wanted).abs())
    every = torch.stack(errors)
    return {
        "max_error": every.max().item(),
        "mean_error": every.mean().item(),
        "n": len(errors),
        "shape": list(wanted.shape),
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
    }


def write_check(found: dict[str, Any], path: Path, bound: float) -> None:
    """Write what `check` found.

    Raises:
        ValueError: If the largest error is above the bound, with both.
    """
    if not found["max_error"] <= bound:
        raise ValueError(
            f"the ONNX file is {found['max_error']:.2g} from torch at worst, at most {bound:g} is allowed: onnxruntime "
            f"{found['versions']['onnxruntime']} may compute a layer otherwise; install the version of the lock file"
        )
    logger.info("ONNX against torch: %.2g at worst over %d volumes", found["max_error"], found["n"])
    with atomic_write(path) as part:
        part.write_text(json.dumps({**found, "bound": bound}, sort_keys=True, indent=1) + "\n", encoding="utf-8")
