"""What all of them share: shards, wildcards, parameters."""

from neuromf.workflow.digests import as_json, code_digest, files_digest, resolve
from neuromf.workflow.listing import list_scans, n_shards, source_values

SCANS = list_scans(cfg.cohort)
SHARDS = range(n_shards(SCANS.n, cfg.cohort.scans_per_shard))
# of what this study does: 6 is about ablations, 7 about lesions
PHASES = [*range(6), *[6] * bool(cfg.active), *[7] * (cfg.fcd.source != "none"), 8]


wildcard_constraints:
    shard=r"\d+",
    run=r"[a-z0-9][a-z0-9.-]*",
    steps=r"\d+",
    phase=r"\d",


def half_the_cores():
    """Threads of a training, so that two go on at a time: a CPU then makes 1.2 to 1.3 times as many steps."""
    cores = workflow.resource_settings.cores  # none on a cluster
    return 8 if workflow.remote_exec or cores is None else max(1, min(8, cores // 2))


def values(section, *names):
    """One JSON string of all of a config section, or of the named keys of it."""
    dumped = section.model_dump(mode="json")
    return as_json(**({name: dumped[name] for name in names} if names else dumped))


def run_values(wildcards):
    """What trains a run: its network, flow and training; a path is taken from the repository's root."""
    run = RUNS[wildcards.run]
    train = run.train.model_dump(mode="json")
    if run.train.start:
        train["start"]["weights"] = str(resolve(run.train.start.weights))
    return as_json(net=run.net.model_dump(), flow=run.flow.model_dump(), train=train)


def sample_values(wildcards):
    """How volumes of a run are drawn; the number of evaluations is the rule's own."""
    samples = RUNS[wildcards.run].samples.model_dump(
        exclude={"evaluations", "timed_seconds"}
    )
    return as_json(spacing_mm=cfg.volumes.spacing_mm, **samples)


def samples_of(wildcards):
    """Folders of the volumes of a run, one for each number of evaluations that it is asked for."""
    steps = RUNS[wildcards.run].samples.evaluations
    return expand(rules.sample.output.folder, run=wildcards.run, steps=steps)


def validate_values():
    """How many held-out volumes are judged, how, and by which LPIPS where its weights are given."""
    lpips = cfg.vae.lpips and str(resolve(cfg.vae.lpips))
    return as_json(n=cfg.latents.n_validated, lpips=lpips)


def measuring():
    """How volumes are measured; weights of published features are taken from the repository's root."""
    metrics = cfg.metrics.model_dump(exclude_none=True, exclude={"arms"})
    for features in metrics["features"]:
        if "weights" in features:
            features["weights"] = str(resolve(features["weights"]))
    return {"spacing_mm": cfg.volumes.spacing_mm, "seed": cfg.seed, **metrics}


def reference_values(**more):
    """The same as one string, with what else a rule asks for."""
    return as_json(**measuring(), **more)


def measure_values(wildcards):
    """The same, how the volumes of a run were drawn, and whether all that can be said of them is measured."""
    samples = RUNS[wildcards.run].samples
    deep = wildcards.run == RUN or cfg.metrics.arms == "all"
    return reference_values(sampler=samples.sampler, asked=samples.n, deep=deep)


def timing_values(wildcards):
    """How long each part is timed, and how volumes of the run are drawn."""
    run = RUNS[wildcards.run].samples
    few = [1, max(run.evaluations)]
    return as_json(
        evaluations=sorted(set(few)),
        sampler=run.sampler,
        seconds=cfg.samples.timed_seconds,
        precision=run.precision,
        memory_mb=7000,
    )


def bench_values(**more):
    """The network, flow and batch of the study, and the shape of its latents."""
    return as_json(
        **more,
        net=cfg.net.model_dump(),
        flow_=cfg.flow.model_dump(mode="json"),
        shape=[4, *(n // 4 for n in cfg.volumes.shape)],
        batch=cfg.train.batch,
        precision=cfg.train.precision,
    )


def scale_values():
    """What is planned, and what of this study says how it compares."""
    return as_json(
        **cfg.scale.model_dump(),
        study=cfg.study,
        shape=cfg.volumes.shape,
        scans_per_shard=cfg.cohort.scans_per_shard,
        versions=1 + cfg.latents.mirror + cfg.latents.copies,
    )


def verification_tests():
    """The files of the tests that judge a phase, named from the repository's root, wherever that lies."""
    names = ("flow", "velocity_net", "module")
    return [f"tests/meanflow/test_{name}.py" for name in names]


def cohort_values():
    """The source of scans: the tables of the embedded cohort, or where others lie and how they are read."""
    shares = cfg.cohort.split.model_dump()
    if cfg.cohort.source == "embedded":
        tables = expand("results/phantom/{shard}/participants.tsv", shard=SHARDS)
        source = {"source": "embedded", "tables": tables}
    else:
        source = source_values(cfg.cohort)
    return as_json(shares=shares, seed=cfg.seed, **source)


def cohort_inputs():
    """What is made before the cohort is listed: the folders of the embedded cohort, or what is fetched of IXI."""
    if cfg.cohort.source == "embedded":
        return expand("results/phantom/{shard}", shard=SHARDS)
    if cfg.cohort.source == "ixi":
        return [ixi_path("participants.tsv")]
    return []


def ixi_path(name):
    """A file or folder of IXI as it is laid out."""
    return str(resolve(cfg.cohort.ixi.folder) / name)


def ixi_values():
    """Addresses and digests of IXI, and how many scans are expected."""
    return as_json(**cfg.cohort.ixi.model_dump(exclude={"folder"}))


def maisi_path():
    """Where the published autoencoder lies, or will."""
    own = cfg.vae.weights in (None, "packaged")
    return str(resolve("data/maisi/autoencoder_v1.pt" if own else cfg.vae.weights))


def maisi_values():
    """The address of the published autoencoder, its digest and licence."""
    return values(cfg.vae, "url", "sha256", "licence")


def vae_values():
    """The autoencoder of the study; a path to weights is taken from the repository's root."""
    settings = cfg.vae.model_dump(mode="json", exclude={"url", "licence", "lpips"})
    if settings["weights"] not in (None, "packaged"):
        settings["weights"] = maisi_path()
    return as_json(**settings, seed=cfg.seed)


def encode_values():
    """How volumes are encoded, and the seed of their augmentation."""
    return as_json(
        **cfg.latents.model_dump(mode="json", exclude={"n_validated"}), seed=cfg.seed
    )


def gate_before(wildcards):
    """The gate of the phase before, which blocks this one with it."""
    before = [phase for phase in PHASES if phase < int(wildcards.phase)]
    return [f"results/gates/phase_{phase}.json" for phase in before[-1:]]


def privacy_values():
    """How images are compared, and how many pairs are drawn."""
    return as_json(
        study=cfg.study,
        run=RUN,
        seed=cfg.seed,
        spacing_mm=cfg.volumes.spacing_mm,
        factor=4,
        pairs=3,
    )


def provenance(*sections, **more):
    """What made a figure, for its metadata and side file: study, run, and the values behind it."""
    dumped = cfg.model_dump(mode="json")
    return as_json(
        study=cfg.study,
        run=RUN,
        seed=cfg.samples.seed,
        spacing_mm=cfg.volumes.spacing_mm,
        values={name: dumped[name] for name in sections},
        **more,
    )
