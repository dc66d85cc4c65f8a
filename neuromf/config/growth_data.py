"""Data of the growth system: the section `data` of its presets, sources of subjects, and the simulated cohort."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neuromf.config.types import Count, Fraction, NotNegative, Positive, Section, Seed, key

SUFFIX_KEYS = Literal["t1c", "t1n", "t2f", "t2w", "seg"]
# Values by scale on top of those of a preset: section data of the preset, and the simulated cohort.
DATA_SCALES: dict[str, dict[str, Any]] = {
    "ci": {"roi_size": [24, 24, 24], "spacing": [8.0, 8.0, 8.0], "batch_size": 4, "num_workers": 0},
    "embedded": {"roi_size": [32, 32, 32], "spacing": [6.0, 6.0, 6.0], "batch_size": 16, "num_workers": 0},
    "bench": {"roi_size": [64, 64, 64], "spacing": [3.0, 3.0, 3.0], "batch_size": 4, "num_workers": 0},
    "paper": {},
}
SIMULATION_SCALES: dict[str, dict[str, Any]] = {
    "ci": {"n_patients": 12, "n_anatomies": 12, "shape": 24, "spacing_mm": 8.0},
    "embedded": {"n_patients": 120, "n_anatomies": 40, "shape": 48, "spacing_mm": 4.0},
    "bench": {"n_patients": 120, "n_anatomies": 40, "shape": 64, "spacing_mm": 3.0},
    "paper": {"n_patients": 400, "n_anatomies": 120, "shape": 128, "spacing_mm": 1.5},
}


class PresetData(Section):
    """Section `data` of a preset; the first nine keys are those of the Exp1 specification."""

    root_dir: str = key("Folder with one folder per subject.")
    modalities: list[str] = key("Modalities in the order of channels.", ["t1c", "t1n", "t2f", "t2w"], min_length=1)
    roi_size: tuple[Count, Count, Count] = key("Voxels of the region of interest; smaller images are padded.")
    spacing: tuple[Positive, Positive, Positive] = key("Voxel size in mm.")
    orientation: Annotated[str, Field(pattern="^[RLAPSI]{3}$")] = key("Axes of the arrays.", "RAS")
    batch_size: Count = key("Subjects per batch.")
    num_workers: int = key("Processes that load batches; 0: the training process.", 0, ge=0)
    cache_rate: Fraction = key("Fraction of subjects in memory; has an effect with cache: memory only.", 1.0)
    val_split: Fraction = key("Fraction of patients in validation.", 0.1)
    persistent_cache_subdir: str = key("Folder of the cache on disk, below the folder of the run.", "cache")
    nonzero: bool = key("z-score over voxels that are not 0; false: over all voxels.", False)
    pad_value: float | Literal["background"] = key(
        "Value of padding; background: the median of each channel's border faces.", 0.0
    )
    train_margin: int = key("Voxels by which training images exceed the ROI before the random crop.", 0, ge=0)
    label_map: dict[int, int] = key("Label codes beside 0 to 3, such as {4: 3} for older BraTS files.", {})
    cache: Literal["disk", "memory", "none"] = key("Where transformed subjects are kept.", "disk")
    suffixes: dict[SUFFIX_KEYS, str] = key("End of file names, where it is not -{modality}.nii.gz.", {})


class Source(Section):
    source: Literal["simulated", "brats"] = key(
        "Where subjects come from. simulated: growing tumours in known anatomies; brats: your own folders, one per "
        "subject, with *-t1c.nii.gz, *-t1n.nii.gz, *-t2f.nii.gz, *-t2w.nii.gz and *-seg.nii.gz."
    )
    root: str | None = key("Folder of the subjects of source brats.", None, path=True)
    anatomy: Literal["embedded", "ixi", "phantom"] = key(
        "Anatomies of the simulated cohort. embedded: deformed from MNI152; ixi: T1 scans of simulation.ixi_root; "
        "phantom: ellipsoids."
    )
    modalities: list[str] = key("Modalities in the order of channels.", ["t1c", "t1n", "t2f", "t2w"], min_length=1)
    label_map: dict[int, int] = key("Label codes beside 0 to 3; older BraTS files code enhancing tumour as 4.", {4: 3})
    suffixes: dict[SUFFIX_KEYS, str] = key("End of file names, where it is not -{modality}.nii.gz.", {})
    patient_regex: str = key(
        "Regular expression of a subject's folder name, whose first group is the patient.", r"(.+?)(?:-\d{3})?"
    )
    val_split: Fraction = key("Fraction of patients, or of simulated anatomies, in validation.", 0.1)
    test_split: Fraction = key("Fraction of patients, or of simulated anatomies, in the test set.", 0.2)
    split_seed: Seed = key("Seed of the split.", 42)

    @model_validator(mode="after")
    def check_root(self) -> "Source":
        if self.source == "brats" and self.root is None:
            raise ValueError("source is brats, so growth.data.root must name the folder of your subjects; got none")
        return self


class Simulation(Section):
    n_patients: Count | None = key("Number of patients; null: that of the scale.", None)
    n_anatomies: Count | None = key("Number of anatomies, which patients share; null: that of the scale.", None)
    shape: Count | None = key("Voxels per axis; null: that of the scale.", None)
    spacing_mm: Positive | None = key("Isotropic voxel size in mm; null: that of the scale.", None)
    seed: Seed = key("Seed of the cohort: patient k of a seed is the same in any cohort.", 0)
    growth_model: Literal["gompertz", "logistic", "treated"] = key(
        "Growth curve; logistic and treated are misspecified for a Gompertz model.", "gompertz"
    )
    mass_effect: NotNegative = key("Displacement at the border of the mass as a fraction of its radius.", 0.0, le=0.5)
    ixi_root: str | None = key("Folder of IXI with T1/*-T1.nii.gz and dlmuse/*-DLMUSE.nii.gz.", None, path=True)
