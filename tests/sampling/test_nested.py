"""Nested R-hat, and what moves between halves."""

import math

import torch

from pyro_nf.sampling.nested import between_halves, nested_r_hat

DRAWS, GROUPS, CHAINS = 20, 32, 16


def noise(columns=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = DRAWS, GROUPS, CHAINS, columns
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_it_is_the_formula():
    x = noise(2)
    expected = []
    for column in range(2):
        groups = [x[:, k, :, column].flatten() for k in range(GROUPS)]
        means = torch.stack([group.mean() for group in groups])
        within = torch.stack([group.var(correction=0) for group in groups]).mean()
        expected.append(math.sqrt(1 + float(means.var() / within)))
    assert torch.allclose(nested_r_hat(x), torch.tensor(expected).double())


def test_independent_draws_have_what_their_number_allows():
    """1 + B / W with B = W / (draws * chains) on average, over many columns."""
    r_hat = nested_r_hat(noise(200))
    assert abs(float(r_hat.square().mean() - 1) * DRAWS * CHAINS - 1) < 0.1


def test_chains_that_remember_their_starts_are_told():
    x = noise()
    starts = torch.randn(GROUPS, 1, 1, generator=torch.Generator().manual_seed(1)).double()
    assert float(nested_r_hat(x)) < 1.01
    assert float(nested_r_hat(x + 0.3 * starts)) > 1.02


def test_what_does_not_vary_has_arrived():
    assert float(nested_r_hat(torch.ones(4, 8, 2, 1))) == 1.0


def test_a_mean_that_moves_is_told_and_noise_is_not():
    x = noise(50)
    assert float(between_halves(x).max()) < 0.05
    x[DRAWS // 2 :] += 0.3
    assert float((between_halves(x) - 0.3).abs().max()) < 0.15
    assert float(between_halves(x).min()) > 0.1
