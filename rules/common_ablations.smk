"""What rules about ablations share: arms, their runs, what is compared."""

import os

DRAWN = {
    "fig_4": "rectified",
    "fig_5": "lp",
    "fig_6": "prediction",
}  # the ablation of a figure
TABLED = {"table_2": "prediction", "table_3": "lp"}  # and of a table


def arms_of(ablation):
    """Arm, seed and run of each member of an ablation; none of an idle one."""
    return [[m.arm, m.seed, m.run] for m in ARMS if m.ablation == ablation]


def baselines():
    """Runs that stand beside that of the study in table 1, and what they are called there: arms against Rectified Flow."""
    called = {"meanflow": "MeanFlow", "rectified": "Rectified Flow"}
    arms = [m for m in ARMS if m.ablation == "rectified" and m.run != RUN]
    return {m.run: f"{called.get(m.arm, m.arm)} arm, seed {m.seed}" for m in arms}


def files_of(ablation):
    """What is known of the runs of an ablation once they are made: metrics and cards."""
    runs = dict.fromkeys(run for _, _, run in arms_of(ablation))
    return expand(
        ["results/runs/{run}/metrics.csv", "results/runs/{run}/card.json"], run=runs
    )


def times_of(files):
    """How many of these files are there, and since when: what a partial result was made from."""
    times = [os.stat(name).st_mtime_ns for name in files if os.path.exists(name)]
    return f"{len(times)} of {len(files)} files, newest {max(times, default=0)}"


def base_arm(ablation):
    """The arm that has the network, flow and sampler of the config as it stands; else the first."""
    same = [
        arm
        for arm, _, run in arms_of(ablation)
        if (RUNS[run].net, RUNS[run].flow, RUNS[run].samples.sampler)
        == (cfg.net, cfg.flow, cfg.samples.sampler)
    ]
    return (same or [arm for arm, _, _ in arms_of(ablation)])[0]


def shown(ablation):
    """The run of each arm whose samples are shown, that of its first seed."""
    runs = {}
    for arm, _, run in arms_of(ablation):
        runs.setdefault(arm, run)
    return runs


def quoted():
    """The table of published numbers, where the study has one."""
    return [str(resolve(cfg.questions.quoted))] if cfg.questions.quoted else []


def question_values():
    """What every question is asked of, and of which margin; the arm that each ablation starts from."""
    asked = cfg.questions.model_dump(exclude={"quoted"})
    return as_json(base={name: base_arm(name) for name in cfg.active}, **asked)


def compared(ablation, **more):
    """What a figure of an ablation was made from, and what it draws."""
    return as_json(
        study=cfg.study,
        ablation=ablation,
        arms=arms_of(ablation),
        base=base_arm(ablation) if ablation in cfg.active else None,
        spacing_mm=cfg.volumes.spacing_mm,
        **cfg.questions.model_dump(exclude={"margin", "quoted"}),
        **more,
    )


def tabled(ablation):
    """What a table of arms shows: the distance of the questions, KID in the same features, and the likeness of pairs."""
    asked = cfg.questions.distance
    shown = [
        asked.model_dump(),
        {"metric": "kid", "features": asked.features},
        cfg.questions.similarity.model_dump(exclude={"goal"}),
    ]
    return as_json(
        study=cfg.study, ablation=ablation, arms=arms_of(ablation), shown=shown
    )


def findings(part):
    """Files of the active ablations, complete or partial: tables, figures, tables of the paper."""
    if not cfg.active:
        return []
    figures = [name for name, ablation in DRAWN.items() if ablation in cfg.active]
    tables = [name for name, ablation in TABLED.items() if ablation in cfg.active]
    return [
        *expand(
            "results/{part}ablations/{name}.csv",
            part=part,
            name=[*cfg.active, "questions"],
        ),
        *expand("results/{part}figures/{name}.pdf", part=part, name=figures),
        *expand("results/{part}tables/{name}.tex", part=part, name=tables),
    ]
