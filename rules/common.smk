"""What every rule shares: shards, wildcards, parameters."""

from neuromf.workflow import as_json, code_digest, listing_digest, n_shards, resolve

SHARDS = range(n_shards(cfg.cohort))
RUN = "meanflow"
PHASES = range(5)


wildcard_constraints:
    shard=r"\d+",
    run=r"[a-z0-9-]+",
    steps=r"\d+",
    phase=r"\d",


def values(section, *names):
    """A rule's values as one JSON string: all of a config section, or the named keys of it."""
    dumped = section.model_dump(mode="json")
    return as_json(**({name: dumped[name] for name in names} if names else dumped))


def run_values(wildcards):
    """What trains a run: network, flow and training of the config."""
    return values(cfg, "net", "flow", "train")


def verification_tests():
    """The files of the tests that judge a phase, which are part of its inputs."""
    names = ("flow", "nets", "training")
    return [f"{workflow.basedir}/tests/test_{name}.py" for name in names]
