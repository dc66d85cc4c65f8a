"""The section on growth of the report page: verdicts, figures, tables and the model card."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from neuromf.report.growth.card import card, interval
from neuromf.report.page import tables
from neuromf.report.page.pictures import picture
from neuromf.report.results import Results

FOLDER = "growth/figures"
FIGURES = {  # title and caption
    "headline": (
        "Forecasts of volumes and images",
        "Top: volumes of three patients with forecasts from the first visit and 95 % bands. Middle: skill over the "
        "last observation carried forward (LOCF), and interval score. Bottom: t1c of the last visit, decoded from "
        "forecast latents, beside the truth; Dice of all patients.",
    ),
    "fig_1": (
        "F1: patients, visits and contrasts",
        "Three patients with the contours of the segmentation.",
    ),
    "fig_2": (
        "F2: collapse of the latent",
        "Active units, KL divergence, bypass ratio and R2 of the volume by loss and decoder.",
    ),
    "fig_3": (
        "F3: disentanglement",
        "R2 of every factor from every part of the latent on test patients, decoded t1c along the direction of the "
        "volume, and the volume that is measured in it. Parts of unsupervised latents are arbitrary ranges, in "
        "brackets.",
    ),
    "fig_4": (
        "F4: forecasts of the volume",
        "Forecasts with 95 % bands, skill over LOCF and interval score by model and cohort.",
    ),
    "fig_5": (
        "F5: decoded future images",
        "t1c of the visit before, of the last visit, and decoded from forecasts, with contours of the true mass and "
        "of the mass in each image; Dice with the true mass.",
    ),
    "fig_6": (
        "F6: real lesion volumes",
        "Skill, coverage and interval score of the models on treated solid tumours, not brain, and the gain from "
        "each row to the next.",
    ),
}
EXPERIMENTS = {
    "experiment": "experiment",
    "title": "model",
    "r2_vol": "R2 of ln V",
    "r2_bright_voxels": "bright voxels",
    "r2_loc": "R2 of location",
    "r2_shape": "R2 of shape",
    "ode_readiness": "ODE readiness",
    "grade": "grade",
    "traversal_spearman": "traversal",
}
LADDER = {"title": "model", "n": "n", "r2": "R2", "skill": "skill over LOCF", "mae": "mean absolute error",
          "cov95": "95 % coverage", "is95": "interval score"}  # fmt: skip
LATENT = {"title": "model", "skill_latent": "skill, volume latent", "skill_measured": "skill, measured volumes"}


def section(results: Results, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """Content of the section; None if no figure or verdict of the growth system exists.

    Arguments:
        results: Results of the study.
        about: Keyword arguments of `neuromf.report.growth.card.card`.
    """
    content = card(results, **about)
    figures = [figure(name, results) for name in FIGURES]
    if not content["verdicts"] and not any(one["picture"] for one in figures):
        return None
    volumes = [part for part in content["volumes"] if part]
    return {
        "card": content,
        "figures": figures,
        "verdicts": tables.data_table("growth-verdicts", verdict_rows(content["verdicts"])),
        "experiments": tables.data_table("growth-experiments", pd.DataFrame(content["experiments"]), EXPERIMENTS),
        "volumes": [
            (part["title"], tables.data_table(f"growth-{part['name']}", pd.DataFrame(part["rows"]), LADDER))
            for part in volumes
        ],
        "latent": tables.data_table("growth-latent", pd.DataFrame(content["latent"]), LATENT),
        "images": tables.data_table("growth-images", image_rows(content["images"])),
    }


def verdict_rows(verdicts: list[dict[str, Any]]) -> pd.DataFrame:
    """Question, quantity, value with interval and p, and answer."""
    rows = [{"question": row["question"], "quantity": row["quantity"], "value (95 % interval)": interval(row),
             "answer": row["answer"]} for row in verdicts]  # fmt: skip
    return pd.DataFrame(rows)


def image_rows(images: Mapping[str, Any]) -> pd.DataFrame:
    """Mean Dice and mean absolute error of ln V by kind of forecast."""
    errors = images.get("log_volume_error", {})
    rows = [
        {"image": kind, "Dice": value, "error of ln V": errors[kind]} for kind, value in images.get("dice", {}).items()
    ]
    return pd.DataFrame(rows)


def figure(name: str, results: Results) -> dict[str, Any]:
    """A figure with its caption and the statement about its data, or the rule that makes it."""
    title, caption = FIGURES[name]
    path, facts = results.path(f"{FOLDER}/{name}.png"), results.json(f"{FOLDER}/{name}.json")
    stated = facts.get("simulated") or facts.get("data") or ""
    text = Markup("<p><strong>{}.</strong> {} <em>{}</em></p>").format(title, caption, f"{stated}." if stated else "")
    reason = f"run the rule growth_{name}"
    return {"name": f"growth_{name}", "title": escape(title), "picture": picture(path) if path else None,
            "caption": text, "reason": reason}  # fmt: skip
