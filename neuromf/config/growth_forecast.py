"""Forecasts of growth: sections `ladder` and `ode` of the block `growth`."""

from typing import Any, Literal

from pydantic import model_validator

from neuromf.config.types import Count, NotNegative, Positive, Section, Seed, key

MODELS = Literal["M0", "M1", "M2", "M3", "M4r", "M4", "M5", "M6", "M7", "M8", "M9", "M10", "M11"]
EVERY: list[Any] = ["M0", "M1", "M2", "M3", "M4r", "M4", "M5", "M6", "M7", "M8", "M9", "M10", "M11"]
# Values by scale on top of the defaults.
FORECAST_SCALES: dict[str, dict[str, Any]] = {"ci": {"n_train": 24, "n_test": 16, "epochs": 2}}


class Ladder(Section):
    models: list[MODELS] = key("Models on simulated volumes and on latents.", EVERY, min_length=2)
    n_train: Count = key("Simulated training patients.", 120)
    n_test: Count = key("Simulated test patients.", 400)
    seed: Seed = key("Seed of the simulated volumes and of folds.", 4)
    real_models: list[MODELS] = key(
        "Models on real volumes; mixed-effects models of Gompertz growth (M4r, M4) and M6 take many minutes.",
        ["M0", "M1", "M2", "M3", "M5"],
        min_length=2,
    )
    latent_models: list[MODELS] = key(
        "Models on the volume latent of experiment 3; M10 is the ODE whose forecasts are decoded.",
        ["M0", "M1", "M2", "M3", "M4r", "M7", "M8", "M10"],
        min_length=2,
    )
    real_table: str | None = key(
        "Table of real lesion volumes (Laleh et al. 2022); without the file there is no real ladder.",
        "../shared/data/tumour_growth/laleh2022_lesions.csv",
        path=True,
    )

    @model_validator(mode="after")
    def check_latent_models(self) -> "Ladder":
        if missing := {"M1", "M10"} - set(self.latent_models):
            raise ValueError(
                f"latent_models must hold M1, the reference, and M10, whose forecasts are decoded; got "
                f"{', '.join(self.latent_models)} without {', '.join(sorted(missing))}"
            )
        return self


class Ode(Section):
    epochs: Count = key("Epochs over all forward pairs.", 200)
    lr: Positive = key("Learning rate of AdamW.", 1e-3)
    batch: Count = key("Forward pairs per batch.", 128)
    weight_decay: NotNegative = key("Weight decay of the networks.", 0.01)
    smoothness: NotNegative = key("Weight of the squared second derivative of trajectories.", 0.01)
    jitter: NotNegative = key("Noise on start states, in standard deviations of the state.", 0.01)
    adjoint: bool = key("Gradients by the adjoint ODE: constant memory, more time.", False)
    time_input: bool = key("Networks also see the months since the first visit.", False)
    seed: Seed = key("Seed of weights, batches and noise.", 0)


def simulated_ladder(scale: str, ladder: Ladder, ode: Ode) -> dict[str, Any]:
    """Keyword arguments of `neuromf.growth.forecast_study.simulated_study` but out and growth_model."""
    own = {**ladder.model_dump(include={"models", "n_train", "n_test", "seed"}), **FORECAST_SCALES.get(scale, {})}
    epochs = own.pop("epochs", ode.epochs)
    return {**own, "ode": {**ode.model_dump(), "epochs": epochs}}
