"""Block `growth`: tumour growth from MRI with four contrasts."""

from typing import Any, Literal

from pydantic import model_validator

from neuromf.config.growth_data import DATA_SCALES, SIMULATION_SCALES, Simulation, Source
from neuromf.config.growth_forecast import Ladder, Ode
from neuromf.config.growth_model import Collapse, Experiment, scale_values
from neuromf.config.types import Section, key

PAPER = {"roi_size": [128, 128, 128], "spacing": [1.0, 1.0, 1.0]}  # of the presets


class Growth(Section):
    scale: Literal["ci", "embedded", "bench", "paper"] = key(
        "Size of images, cohort and networks on top of the presets. ci: 24^3 voxels, 12 patients, 10 steps; embedded: "
        "32^3 of 6 mm, 120 patients, minutes on a CPU; bench: 64^3 of 3 mm; paper: the presets as they are."
    )
    data: Source = key("Subjects.")
    simulation: Simulation = key("The simulated cohort.", Simulation())
    exp1: Experiment = key("Experiment 1: a variational autoencoder.")
    exp2: Experiment = key("Experiment 2: DIP-VAE.")
    exp3: Experiment = key("Experiment 3: supervised parts.")
    collapse: Collapse = key("Study of posterior collapse.", Collapse())
    ladder: Ladder = key("Models that forecast the volume, from the population mean to the neural ODE.", Ladder())
    ode: Ode = key("Training of the neural ODE.", Ode())

    @model_validator(mode="after")
    def check_ixi(self) -> "Growth":
        if self.data.source == "simulated" and self.data.anatomy == "ixi" and self.simulation.ixi_root is None:
            raise ValueError("data.anatomy is ixi, so growth.simulation.ixi_root must name the folder of IXI; got none")
        return self

    def simulated_cohort(self) -> dict[str, Any]:
        """Keyword arguments of `neuromf.simulation.tumour_cohort.simulate_cohort`, without paths."""
        own = self.simulation.model_dump(exclude={"ixi_root"}, exclude_none=True)
        return {**SIMULATION_SCALES[self.scale], **own, "anatomy": self.data.anatomy}

    def overrides(self, root_dir: str) -> dict[str, Any]:
        """Values of scale and source on top of a preset, by section."""
        source = self.data.model_dump(mode="json", include={"modalities", "label_map", "suffixes"})
        return scale_values(self.scale, {**DATA_SCALES[self.scale], **source, "root_dir": root_dir})

    def index_values(self) -> dict[str, Any]:
        """Keyword arguments of `neuromf.data.multimodal_loaders.prepare_index`, without paths."""
        names = {"modalities", "label_map", "suffixes", "patient_regex", "val_split", "test_split"}
        geometry = {name: {**PAPER, **DATA_SCALES[self.scale]}[name] for name in PAPER}
        return {**geometry, "seed": self.data.split_seed, **self.data.model_dump(mode="json", include=names)}

    def statement(self) -> str:
        """What figures state about simulated data; "" for real data."""
        if self.data.source != "simulated":
            return ""
        kind = {"embedded": "generated anatomy (MNI152)", "ixi": "real anatomy (IXI)", "phantom": "generated anatomy"}
        return f"Simulated growth in {kind[self.data.anatomy]}"
