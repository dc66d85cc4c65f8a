"""All figures and tables of a study: file name, module, title, and what a study needs to have them.

This module imports the standard library only, so that the workflow can read it.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """A figure or table.

    Arguments:
        module: Module whose `render` writes the files.
        title: Title as text.
        ablation: Ablation that the study must run; "" for none.
        lesions: Whether the study must have lesions.
    """

    module: str
    title: str
    ablation: str = ""
    lesions: bool = False


FIGURES = {
    "fig_1": Entry("neuromf.figures.overview", "Overview of the method"),
    "fig_2": Entry("neuromf.figures.torus", "MeanFlow on a torus"),
    "fig_3": Entry("neuromf.figures.samples", "Real and generated brains"),
    "fig_4": Entry("neuromf.figures.nfe_curve", "Distance against network evaluations", ablation="rectified"),
    "fig_5": Entry("neuromf.figures.loss_exponent", "Exponent of the loss", ablation="lp"),
    "fig_6": Entry("neuromf.figures.prediction", "x-prediction against u-prediction", ablation="prediction"),
    "fig_7": Entry("neuromf.figures.lesions", "Real and generated lesions", lesions=True),
    "fig_8": Entry("neuromf.figures.regions", "Volumes of brain regions"),
    "latents": Entry("neuromf.figures.latents", "Statistics of the latents"),
    "privacy": Entry("neuromf.figures.privacy", "Privacy audit"),
    "contact": Entry("neuromf.figures.contact_sheet", "Contact sheet of all scans"),
    "dashboard": Entry("neuromf.figures.dashboard", "Dashboard of a training"),  # one per run, dashboard-RUN
}
TABLES = {
    "table_1": Entry("neuromf.report.tables.comparison", "Main comparison"),
    "table_2": Entry("neuromf.report.tables.arms", "x-prediction against u-prediction", ablation="prediction"),
    "table_3": Entry("neuromf.report.tables.arms", "Exponent of the loss", ablation="lp"),
    "table_4": Entry("neuromf.report.tables.lesions", "Lesions", lesions=True),
}
