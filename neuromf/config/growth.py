"""Block `growth`: tumour growth from MRI with four contrasts."""

from typing import Any, Literal

from pydantic import model_validator

from neuromf.config.growth_data import DATA_SCALES, SIMULATION_SCALES, Simulation, Source
from neuromf.config.types import Section, key


class Growth(Section):
    scale: Literal["ci", "embedded", "bench", "paper"] = key(
        "Size of images, cohort and networks on top of the presets. ci: 24^3 voxels, 12 patients, 10 steps; embedded: "
        "32^3 of 6 mm, 120 patients, minutes on a CPU; bench: 64^3 of 3 mm; paper: the presets as they are."
    )
    data: Source = key("Subjects.")
    simulation: Simulation = key("The simulated cohort.", Simulation())

    @model_validator(mode="after")
    def check_ixi(self) -> "Growth":
        if self.data.source == "simulated" and self.data.anatomy == "ixi" and self.simulation.ixi_root is None:
            raise ValueError("data.anatomy is ixi, so growth.simulation.ixi_root must name the folder of IXI; got none")
        return self

    def simulated_cohort(self) -> dict[str, Any]:
        """Keyword arguments of `neuromf.simulation.tumour_cohort.simulate_cohort`, without paths."""
        own = self.simulation.model_dump(exclude={"ixi_root"}, exclude_none=True)
        return {**SIMULATION_SCALES[self.scale], **own, "anatomy": self.data.anatomy}

    def data_values(self) -> dict[str, Any]:
        """Values of the section `data` of a preset that scale and source set."""
        names = {"label_map", "suffixes"}
        return DATA_SCALES[self.scale] | self.data.model_dump(mode="json", include=names, exclude_defaults=False)
