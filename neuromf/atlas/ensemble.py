"""Ensembles of aleatoric decoders on the latent of one trained volume model: maps with two kinds of uncertainty.

A member k decodes the mean mu_k and the variance v_k of a map. By the law of total variance, the variance of the
equal mixture of K members is

    mean_k v_k  (aleatoric)  +  Var_k mu_k  (epistemic).

All members share the encoder and the condition of the volume model, so that one z has one meaning for all of them.

Reference:
    Snapshot ensembles: train 1, get M for free (Huang et al., 2017), arXiv:1704.00109
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuromf.atlas.inference import Atlas, load_atlas
from neuromf.atlas.volume_vae import LOGVAR, ConditionalDecoder
from neuromf.core.files import save_tensors, sha256

MEMBER = "member_{number}.pt"


class AleatoricDecoder(nn.Module):
    """Mean and log-variance of maps, (B, 2, I, J, K), of z (B, d) and a condition (B, c); zero outside the mask.

    At initialisation they are the mean map and the log-variance map of the training studies.

    Arguments:
        mask: Voxels inside the brain, bool (I, J, K).
        mean_map, logvar_map: Mean and log-variance of training maps in the mask, (V,).
        z_dim: Latent dimensions d.
        condition_dim: Width c of the condition; None for none.
        settings: last_width, depth and stride of `ConditionalDecoder`.
    """

    mask: Tensor
    mean_map: Tensor
    logvar_map: Tensor

    def __init__(
        self, mask: Tensor, mean_map: Tensor, logvar_map: Tensor, z_dim: int, condition_dim: int | None, **settings: Any
    ) -> None:
        super().__init__()
        self.register_buffer("mask", mask.bool())
        self.register_buffer("mean_map", mean_map.float())
        self.register_buffer("logvar_map", logvar_map.float())
        self.decoder = ConditionalDecoder(tuple(mask.shape), z_dim, condition_dim, channels=2, **settings)

    def moments(self, z: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance in the mask, (B, V) each."""
        mean, logvar = self.decoder(z, condition)[..., self.mask].float().unbind(1)
        return mean + self.mean_map, (logvar + self.logvar_map).clamp(*LOGVAR)

    def forward(self, z: Tensor, condition: Tensor | None) -> Tensor:
        values = torch.stack(self.moments(z, condition), dim=1)
        out = values.new_zeros(*values.shape[:2], *self.mask.shape)
        out[..., self.mask] = values
        return out


def total_variance(means: Tensor, variances: Tensor) -> dict[str, Tensor]:
    """Mean, epistemic and aleatoric variance (...) of members (K, ...) by the law of total variance."""
    return {"mean": means.mean(0), "epistemic_unc": means.var(0, correction=0), "aleatoric_unc": variances.mean(0)}


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the weights of a module, which does not depend on the file they are in."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def require_distinct(digests: Sequence[str]) -> None:
    """Raise ValueError if two members have the same weights: a member counted twice hides epistemic uncertainty."""
    for k, digest in enumerate(digests):
        if (first := digests.index(digest)) < k:
            raise ValueError(f"members {first + 1} and {k + 1} of the ensemble have the same weights ({digest[:12]}): "
                             "each member must be a checkpoint of its own")  # fmt: skip


class Ensemble:
    """Members on one volume model.

    Arguments:
        atlas: Volume model whose encoder and condition all members share.
        members: Aleatoric decoders.
        card: Kind (snapshot or independent), scale, digests and ids of the training studies.

    Raises:
        ValueError: If two members have the same weights, or there is one alone.
    """

    def __init__(self, atlas: Atlas, members: Sequence[AleatoricDecoder], card: Mapping[str, Any]) -> None:
        if len(members) < 2:
            raise ValueError(f"an ensemble has two or more members; got {len(members)}")
        self.atlas, self.members, self.card = atlas, [member.eval() for member in members], dict(card)
        self.digests = [weights_digest(member) for member in self.members]
        require_distinct(self.digests)

    @torch.inference_mode()
    def moments(self, z: Tensor, m: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Means and variances in the mask of all members, (K, B, V) each.

        Arguments:
            z: Latents (B, d) of the volume model.
            m: Metadata (B, d_m), NaN where an entry is missing; None: nothing is known.
        """
        model = self.atlas.model
        condition = model.condition(*model.metadata(m, None, len(z)))
        means, logvars = zip(*(member.moments(z, condition) for member in self.members), strict=True)
        return torch.stack(means), torch.stack(logvars).exp()

    def predict(self, z: Tensor, m: Tensor | None = None) -> dict[str, Tensor]:
        """Maps (B, I, J, K): mean, and variances epistemic_unc and aleatoric_unc, 0 or more; zero outside the mask."""
        found = total_variance(*self.moments(z, m))
        return {name: self._volume(values) for name, values in found.items()}

    def _volume(self, values: Tensor) -> Tensor:
        out = values.new_zeros(len(values), *self.atlas.grid.shape)
        out[..., self.atlas.model.mask] = values
        return out


def diversity(means: Tensor) -> float:
    """Mean over maps and pairs of members of 1 - r of their maps (K, B, V); 0 for equal members."""
    centred = means.double() - means.double().mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    r = torch.einsum("kbv,lbv->klb", unit, unit).mean(-1)
    above = torch.triu(torch.ones_like(r), diagonal=1).bool()
    return float(1 - r[above].mean())


def save_member(path: Path, member: AleatoricDecoder, settings: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """Write one member: weights, settings of its decoder and the digest of the volume model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors({"weights": member.state_dict(), "settings": dict(settings), "card": dict(card)}, path)


def load_ensemble(folder: str | Path, checkpoint: str | Path) -> Ensemble:
    """The ensemble of a run folder on the volume model of a checkpoint.

    Raises:
        ValueError: If members were trained on another volume model, or two are equal.
    """
    folder, checkpoint = Path(folder), Path(checkpoint)
    atlas, base = load_atlas(checkpoint), sha256(checkpoint / "checkpoint" if checkpoint.is_dir() else checkpoint)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    members = []
    for number in range(1, card["k"] + 1):
        state = torch.load(folder / MEMBER.format(number=number), map_location="cpu", weights_only=True)
        if state["card"]["base"] != base:
            raise ValueError(f"member {number} in {folder} decodes the latent of another volume model than {checkpoint}"
                             ": train the ensemble again")  # fmt: skip
        member = build_member(atlas, state["weights"]["mean_map"], state["weights"]["logvar_map"], state["settings"])
        member.load_state_dict(state["weights"])
        members.append(member)
    return Ensemble(atlas, members, card)


def build_member(atlas: Atlas, mean_map: Tensor, logvar_map: Tensor, settings: Mapping[str, int]) -> AleatoricDecoder:
    """A decoder of the latent and the condition of a volume model, with random weights of torch's global generator."""
    embed: Any = atlas.model.embed
    width = None if embed is None else embed[-1].out_features
    return AleatoricDecoder(
        atlas.model.mask, mean_map, logvar_map, atlas.z_dim, width, last_width=settings["decoder_width"],
        depth=settings["decoder_depth"], stride=settings["decoder_stride"],
    )  # fmt: skip
