"""A small training on random images, for tests of modules, callbacks and the run directory."""

import torch
from torch.utils.data import DataLoader

from neuromf.data.multimodal_loaders import EpochSampler, collate
from neuromf.growth.factory import build_module
from neuromf.growth.train import fit

NAMES = ["t1c", "t1n", "t2f", "t2w"]
SIDE = 8
CONFIG = {
    "data": {"roi_size": [SIDE] * 3, "spacing": [2.0] * 3, "modalities": NAMES},
    "model": {"z_dim": 4, "base_filters": 4},
    "loss": {},
    "train": {
        "seed": 0,
        "max_epochs": 2,
        "precision": "32",
        "accelerator": "cpu",
        "kl_annealing_epochs": 2,
        "lr": 1e-3,
    },
    "logging": {"recon_every_n_epochs": 2, "num_recon_samples": 1},
}


def subjects(n, seed):
    """Subjects with noise in a box on a background of 0, and a tumour of two labels."""
    random = torch.Generator().manual_seed(seed)
    items = []
    for k in range(n):
        image = torch.zeros(4, SIDE, SIDE, SIDE)
        image[:, 1:, 1:, 1:] = torch.randn(4, 7, 7, 7, generator=random)
        seg = torch.zeros(1, SIDE, SIDE, SIDE, dtype=torch.uint8)
        seg[:, 2 : 4 + k % 3, 2:4, 2:4], seg[:, 2, 2, 2] = 1, 2
        items.append({"image": image, "seg": seg, "id": f"s{seed}{k}", "patient": f"p{seed}{k}", "paths": {}})
    return items


def loaders(n=6, batch=2):
    train = subjects(n, 1)
    return (
        DataLoader(train, batch_size=batch, sampler=EpochSampler(n, 0), collate_fn=collate),
        DataLoader(subjects(4, 2), batch_size=batch, collate_fn=collate),
    )


def config(**changes):
    return {name: {**section, **changes.get(name, {})} for name, section in CONFIG.items()}


def module_of(settings, provenance="p"):
    torch.manual_seed(settings["train"]["seed"])
    sections = {name: settings[name] for name in ("model", "loss", "train")}
    return build_module(roi_size=[SIDE] * 3, n_train=6, provenance=provenance, **sections)


def run(folder, module=None, data=None, **changes):
    settings = config(**changes)
    module = module or module_of(settings)
    fit(module, *(data or loaders()), run=folder, **settings)
    return module
