"""What rules about lesions share: pairs of image and mask, and the runs that draw both."""

import hashlib

from neuromf.data.sources.pairs import read_pairs

STRATEGIES = ("vae", "distance", "downsample", "level")  # of masks


def lesions_values():
    """How many people with dysplasia, its signs, and the scanner of the embedded cohort."""
    simulated = cfg.fcd.simulated.model_dump()
    scanner = cfg.cohort.embedded.model_dump(exclude={"n_participants", "seed"})
    return as_json(**simulated, **scanner)


def pairs_inputs():
    """What is made before pairs are listed."""
    simulated = cfg.fcd.source == "simulated"
    return [rules.lesions.output.folder] if simulated else []


def pairs_source():
    """Where pairs lie and how they are named, as neuromf.data.sources.pairs takes it."""
    source = cfg.fcd.source
    if source == "none":
        return {
            "source": source,
            "root": "",
        }  # refused by the job, were it ever asked for
    if source == "simulated":
        return {"source": "bids", "root": "results/fcd/phantom"}
    section = getattr(cfg.fcd, source).model_dump()
    return {"source": source, **section, "root": str(resolve(section["root"]))}


def pairs_values():
    """The source of pairs, and how they are prepared and shared out."""
    grid = cfg.volumes.model_dump(mode="json")
    shares = cfg.fcd.split.model_dump()
    return as_json(
        source=pairs_source(), prepare={"shares": shares, "seed": cfg.seed, **grid}
    )


def pairs_files():
    """A digest of the files of a source that is there before any job; none of one that is made."""
    if cfg.fcd.source in ("none", "simulated"):
        return ""
    try:
        rows = read_pairs(**pairs_source())
    except ValueError as error:
        raise SystemExit(f"fcd.{cfg.fcd.source}: {error}") from error
    listed = "\n".join(as_json(**row) for row in rows)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def pair_latents_values():
    """How pairs are encoded, and how many copies of those in training."""
    how = cfg.latents.model_dump(include={"augmentation", "precision"})
    return as_json(copies=cfg.fcd.copies, seed=cfg.seed, **how)


# settings of every run of image and mask together, and the run of every arm; the first is that of figures and gates
JOINTS, JOINT_ARMS = cfg.fcd.joints()
JOINT = next(iter(JOINTS))


TUNED = {  # what a fine-tuning takes over from the run it starts from
    "flow": (
        "times",
        "tangent",
        "derivative",
        "adaptive_power",
        "adaptive_c",
        "adaptive_over",
    ),
    "train": (
        "weight_decay",
        "lr_end",
        "ema_images",
        "clip",
        "precision",
        "checkpoint_every",
    ),
}


def joint_values(wildcards):
    """What fine-tunes a run: its own settings, and those of the run it starts from."""
    dumped = cfg.model_dump(mode="json")
    taken = {
        section: {name: dumped[section][name] for name in names}
        for section, names in TUNED.items()
    }
    return as_json(**taken, **JOINTS[wildcards.run].model_dump(mode="json"))


def joint_samples_values():
    """How many pairs are drawn, and what sets the threshold of their masks."""
    fcd, drawn = cfg.fcd, cfg.samples
    return as_json(
        n=fcd.n_samples,
        threshold=fcd.threshold,
        seed=drawn.seed,
        batch=drawn.batch,
        spacing_mm=cfg.volumes.spacing_mm,
    )


def joint_metrics_values():
    """How pairs are measured: the features of the study, and redraws of intervals."""
    known = measuring()
    return as_json(
        **{name: known[name] for name in ("features", "spacing_mm", "seed", "n_boot")}
    )


def segmentation_values():
    """Steps of the segmentation network, and the seeds it is trained with."""
    return as_json(steps=cfg.fcd.segmentation_steps, seeds=[cfg.seed, cfg.seed + 1])
