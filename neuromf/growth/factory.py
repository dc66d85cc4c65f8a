"""The only place that builds models: a section of a preset in, a LightningModule out."""

from collections.abc import Sequence
from typing import Any

from neuromf.growth.models import VAESBD, BaselineVAE
from neuromf.growth.module import VAELitModule

VARIANTS = ("baseline", "dipvae_sbd", "tc")
ROUTING = ("variant", "use_sbd")  # keys of `model` that choose classes
TRAIN = (  # keys of `train` that the modules take
    "seed", "max_epochs", "lr", "weight_decay", "kl_beta", "kl_annealing_epochs", "kl_schedule", "kl_cycles",
    "kl_cycle_ratio", "kl_free_bits", "kl_free_bits_mode", "kl_capacity",
)  # fmt: skip
DIP = (
    "lambda_od", "lambda_d", "lambda_start_epoch", "lambda_cov_annealing_epochs", "dip", "dip_estimator", "dip_pairs",
    "dip_gate", "bank_size", "compute_in_fp32", "use_ddp_gather",
)  # fmt: skip
TC = ("beta_tc", "tc_annealing_epochs")


def build_model(roi_size: Sequence[int], model: dict[str, Any], logvar_min: float | None = None) -> BaselineVAE:
    """Network of the section `model` of a preset."""
    kind = VAESBD if model.get("use_sbd", False) else BaselineVAE
    settings = {key: value for key, value in model.items() if key not in ROUTING}
    return kind(roi_size=roi_size, logvar_min=logvar_min, **settings)


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
    net = build_model(roi_size, model, train.get("posterior_logvar_min"))
    options = {key: train[key] for key in TRAIN if key in train}
    options |= {key: loss[key] for key in ("reduction", "sigma") if key in loss} | {"provenance": provenance}
    variant = model.get("variant", "baseline")
    if variant == "baseline":
        return VAELitModule(net, **options)
    if variant == "dipvae_sbd":
        from neuromf.growth.dip_module import DIPVAELitModule  # Exp1 does not need it

        return DIPVAELitModule(net, **{key: loss[key] for key in DIP if key in loss}, **options)
    if variant == "tc":
        from neuromf.growth.tc_module import TCLitModule

        return TCLitModule(net, n_data=n_train, **{key: loss[key] for key in TC if key in loss}, **options)
    raise ValueError(f"model.variant must be one of {', '.join(VARIANTS)}; got {variant!r}")
