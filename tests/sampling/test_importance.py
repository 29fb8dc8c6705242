"""Pareto smoothing against ArviZ, and systematic resampling."""

import importlib
import math
import warnings

import pyro.distributions as dist
import pytest
import torch

from pyro_nf.sampling.importance import resampled, smooth


@pytest.fixture(scope="module")
def psislw():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its next version at import
        arviz = pytest.importorskip("arviz")
        if hasattr(arviz, "psislw"):
            return arviz.psislw
        # ArviZ 1.x takes log likelihoods, and weighs by what is one over them.
        stats = importlib.import_module("arviz_stats.base").array_stats
        return lambda log_weights: stats.psislw(-log_weights)


TAILS = {
    "light": lambda n: 0.3 * torch.randn(n),
    "heavy": lambda n: dist.Exponential(1.0).sample((n,)),
    "very heavy": lambda n: 3 * torch.randn(n),
    "bounded": lambda n: torch.rand(n),
    "with -inf": lambda n: torch.where(torch.rand(n) < 0.1, -math.inf, torch.randn(n)),
    "huge": lambda n: 1e5 + 20 * torch.randn(n, dtype=torch.float64),
}


# Sizes whose tail, 3 sqrt(n), is a whole number: ArviZ 0.x rounds it up, 1.x down.
@pytest.mark.parametrize("n", [100, 900, 10_000])
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_smoothing_agrees_with_arviz(psislw, tail, n):
    raw = tail(n).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a k-hat above 0.7 is what some cases are for
        log_weights, k_hat = psislw(raw.numpy().copy())
    ours = smooth(raw)
    # The same formula in double precision, sums in another order.
    assert ours.k_hat == pytest.approx(float(k_hat), abs=1e-9)
    torch.testing.assert_close(ours.log_weights, torch.as_tensor(log_weights), rtol=0, atol=1e-9)


def test_the_size_of_the_tail_is_rounded_up():
    assert smooth(torch.randn(1000)).tail == 95  # 3 sqrt(1000) = 94.9


def test_weights_without_a_tail():
    assert smooth(torch.full((1000,), -3.0)).k_hat == -math.inf
    assert smooth(-3.0 + 1e-6 * torch.randn(1000)).k_hat == -math.inf
    assert smooth(torch.arange(1000) % 2 * 1.0).k_hat == -math.inf  # two values: bounded
    one = torch.zeros(1000)
    one[7] = 2000.0
    assert smooth(one).k_hat == math.inf


def test_resampled_indices_follow_the_weights():
    weights = torch.tensor([0.5, 0.0, 0.25, 0.25]).log()
    chosen = resampled(weights, 1000)
    assert (chosen.diff() < 0).double().mean() > 0.2  # in random order
    counts = chosen.bincount(minlength=4)
    assert counts.tolist() == [500, 0, 250, 250]  # systematic: exact to within one
    with pytest.raises(ValueError, match="no draw has a finite weight"):
        resampled(torch.full((10,), math.nan), 5)
