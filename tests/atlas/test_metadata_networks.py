"""Imputation of missing metadata and adversaries, on toys with a planted truth."""

import pytest
import torch
from torch import nn

from neuromf.atlas.adversary import Adversary, Target, adversary_ramp, targets_of
from neuromf.atlas.imputation import (
    Block,
    ImputationHead,
    imputed_blocks,
    marginal_nll,
    negative_log_likelihood,
    sample_field,
)
from neuromf.atlas.metadata import SOURCES, Field, Schema


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def field(name, kind, *columns):
    return Field(name, kind, SOURCES[name], columns or (name,))


FIELDS = field("year", "continuous"), field("log_n_foci", "continuous"), field("space", "categorical", "MNI", "TAL")
SCHEMA = Schema((*FIELDS, field("pet", "flag")))


def planted(n, seed):
    """Metadata in which log_n_foci is the year plus noise of s.d. 0.2, and the space is the sign of the year."""
    year = torch.randn(n, generator=random_generator(seed))
    n_foci = year + 0.2 * torch.randn(n, generator=random_generator(seed + 1))
    tal = (year < 0).float()
    return torch.stack([year, n_foci, 1 - tal, tal, torch.zeros(n)], 1)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    head = ImputationHead(SCHEMA, hidden=32)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    random = random_generator(5)
    for step in range(250):
        m = planted(128, 2 * step)
        observed = torch.ones_like(m, dtype=torch.bool)
        loss = head.loss(m, observed, head.mask_fields(observed, random))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


def test_A24_the_imputation_of_masked_fields_beats_the_marginal(head):
    m = planted(2000, 9999)
    for block, column in ((head.blocks[1], 1), (head.blocks[2], 2)):
        observed = torch.ones_like(m, dtype=torch.bool)
        observed[:, block.start : block.stop] = False
        with torch.no_grad():
            parameters = head(m, observed)[head.blocks.index(block)]
        values = m[:, block.start : block.stop]
        nats = float(negative_log_likelihood(block, parameters, values).mean())
        assert nats < marginal_nll(block, values) - 0.3, column
    exact = 0.5 * (1 + torch.log(torch.tensor(2 * torch.pi * 0.04)))  # of n_foci given the year
    observed = torch.tensor([True, False, True, True, True]).expand(2000, -1)
    nats = negative_log_likelihood(head.blocks[1], head(m, observed)[1], m[:, 1:2]).mean()
    assert float(nats.detach()) == pytest.approx(float(exact), abs=0.25)


def test_A24_the_variance_is_larger_where_informative_fields_are_missing(head):
    m = planted(500, 7)
    informed = torch.tensor([True, False, True, True, True]).expand(500, -1)
    blind = torch.tensor([False, False, False, False, True]).expand(500, -1)
    with torch.no_grad():
        logvar = [head(m, observed)[1][:, 1].mean() for observed in (informed, blind)]
    assert float(logvar[1]) > float(logvar[0]) + 1
    drawn = [torch.stack([head.sample(m, seen, random_generator(k))[:, 1] for k in range(20)]).var(0).mean()
             for seen in (informed, blind)]  # fmt: skip
    assert drawn[1] > 2 * drawn[0]


def test_A24_only_missing_entries_are_sampled_and_the_sample_is_differentiable(head):
    m, observed = planted(8, 3), torch.tensor([True, False, False, False, True]).expand(8, -1)
    drawn = head.sample(m.where(observed, torch.nan), observed, random_generator())
    assert torch.equal(drawn[:, [0, 4]], m[:, [0, 4]]) and drawn.isfinite().all()
    assert drawn[:, 2:4].sum(1).tolist() == pytest.approx([1.0] * 8, abs=1e-5)
    drawn[:, 1].sum().backward()
    assert head.heads[1].weight.grad.abs().sum() > 0


def test_A24_samples_have_the_moments_of_the_distribution():
    parameters = torch.tensor([[1.0, 2 * torch.log(torch.tensor(0.5))]]).expand(20_000, -1)
    drawn = sample_field(Block("year", "continuous", 0, 1), parameters, random_generator())
    assert float(drawn.mean()) == pytest.approx(1, abs=0.02) and float(drawn.std()) == pytest.approx(0.5, abs=0.02)
    logits = torch.tensor([[1.0, 0.0]]).expand(20_000, -1)
    picked = sample_field(Block("space", "categorical", 0, 2), logits, random_generator()).argmax(1)
    assert float((picked == 0).float().mean()) == pytest.approx(1 / (1 + torch.e**-1), abs=0.015)


def test_A24_flags_are_not_imputed():
    assert [(block.name, block.start, block.stop) for block in imputed_blocks(SCHEMA)] == [
        ("year", 0, 1), ("log_n_foci", 1, 2), ("space", 2, 4)]  # fmt: skip


# --- adversaries -----------------------------------------------------------------------------------------


def test_A25_the_weight_of_the_adversary_has_knots_at_20_and_80_of_100_epochs():
    ramp = adversary_ramp(2.0, 100)
    assert [ramp(epoch) for epoch in (0, 20, 50, 80, 100)] == [0, 0, 1, 2, 2]
    assert adversary_ramp(2.0, 10)(5) == pytest.approx(1)


@pytest.mark.parametrize("name", ["year", "year_bins", "space"])
def test_A25_heads_learn_and_the_latent_unlearns(name):
    torch.manual_seed(0)
    (target,) = targets_of(SCHEMA, [name], edges=(-0.5, 0.5))
    adversary = Adversary(3, [target])
    z = torch.randn(16, 3, requires_grad=True)
    m, observed = planted(16, 0), torch.ones(16, 5, dtype=torch.bool)
    adversary.loss(z, m, observed, 2.0).backward()
    reversed_gradient, z.grad = z.grad.clone(), None
    adversary.loss(z, m, observed, -1.0).backward()  # the gradient as it is
    torch.testing.assert_close(reversed_gradient, -2.0 * z.grad)


def test_A25_missing_targets_do_not_count():
    torch.manual_seed(0)
    adversary = Adversary(3, [Target("year", "continuous", 0, 1)])
    z, m = torch.randn(4, 3), planted(4, 0)
    observed = torch.ones(4, 5, dtype=torch.bool)
    observed[2:, 0] = False
    torch.testing.assert_close(
        adversary.loss(z, m.nan_to_num(), observed, 1.0), adversary.loss(z[:2], m[:2], observed[:2], 1.0)
    )


def probe_r2(strength):
    """Test R^2 of ridge probes for a planted year, and for another factor, in a noisy latent with an adversary."""
    from sklearn.linear_model import Ridge

    torch.manual_seed(0)
    year, other = (torch.randn(1500, 1, generator=random_generator(k)) for k in range(2))
    x = torch.cat([other + 0.3 * year, other - 0.3 * year, 0.5 * year], 1)
    encoder, decoder = nn.Linear(3, 2), nn.Linear(2, 3)
    adversary = Adversary(2, [Target("year", "continuous", 0, 1)])
    vae = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam([{"params": vae}, {"params": adversary.parameters(), "lr": 3e-2}], lr=1e-2)
    observed = torch.ones(128, 1, dtype=torch.bool)
    for step in range(300):
        rows = slice(128 * (step % 8), 128 * (step % 8) + 128)
        mu = encoder(x[rows])
        z = mu + 0.5 * torch.randn(mu.shape, generator=random_generator(step))
        loss = (decoder(z) - x[rows]).square().sum(1).mean() + 0.05 * mu.square().sum(1).mean()
        loss = loss + adversary.loss(z, year[rows], observed, strength)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z = (encoder(x) + 0.5 * torch.randn(1500, 2, generator=random_generator(77))).detach().numpy()
    return [Ridge().fit(z[:1024], target[:1024, 0]).score(z[1024:], target[1024:, 0]) for target in (year, other)]


def test_A26_a_planted_year_disappears_with_reversal_and_stays_without():
    assert probe_r2(0.0)[0] > 0.7
    year, other = probe_r2(3.0)
    assert year < 0.1 and other > 0.85
    assert probe_r2(-3.0)[0] > 0.7  # an adversary whose gradient is not reversed helps the latent
