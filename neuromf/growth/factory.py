"""The only place that builds models: a section of a preset in, a LightningModule out."""

import inspect
from collections.abc import Sequence
from typing import Any

from neuromf.growth.models import VAESBD, BaselineVAE
from neuromf.growth.module import VAELitModule

VARIANTS = ("baseline", "dipvae_sbd", "tc", "semi")
NOT_OF_NETWORK = ("variant", "use_sbd", "partition", "isolate")  # keys of `model` that choose classes or slices


def build_model(roi_size: Sequence[int], model: dict[str, Any], logvar_min: float | None = None) -> BaselineVAE:
    """Network of the section `model` of a preset."""
    kind = VAESBD if model.get("use_sbd", False) else BaselineVAE
    settings = {key: value for key, value in model.items() if key not in NOT_OF_NETWORK}
    return kind(roi_size=roi_size, logvar_min=logvar_min, **settings)


def module_class(variant: str) -> type[VAELitModule]:
    """Class of a variant; later stages are imported only if they are used, since Exp1 does not need them."""
    if variant == "dipvae_sbd":
        from neuromf.growth.dip_module import DIPVAELitModule as kind
    elif variant == "tc":
        from neuromf.growth.tc_module import TCLitModule as kind  # type: ignore[assignment]
    elif variant == "semi":
        from neuromf.growth.semi_module import SemiLitModule as kind  # type: ignore[assignment]
    elif variant == "baseline":
        return VAELitModule
    else:
        raise ValueError(f"model.variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
    return kind


def options_of(kind: type[VAELitModule]) -> set[str]:
    """Names of the options of a class and of its parents."""
    signatures = [inspect.signature(one.__init__) for one in kind.__mro__ if issubclass(one, VAELitModule)]
    return {name for one in signatures for name, value in one.parameters.items() if value.kind is value.KEYWORD_ONLY}


def build_module(
    *,
    roi_size: Sequence[int],
    model: dict[str, Any],
    loss: dict[str, Any],
    train: dict[str, Any],
    n_train: int,
    provenance: str = "",
) -> VAELitModule:
    """LightningModule of the sections model, loss and train of a preset.

    Arguments:
        n_train: Number of training samples, for the total correlation.

    Raises:
        ValueError: If a value is not known.
    """
    kind = module_class(model.get("variant", "baseline"))
    net = build_model(roi_size, model, train.get("posterior_logvar_min"))
    given = {**model, **loss, **train, "n_data": n_train, "provenance": provenance, "roi_size": roi_size}
    return kind(net, **{name: given[name] for name in options_of(kind) if name in given})
