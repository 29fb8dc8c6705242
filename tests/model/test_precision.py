"""Unchanged code runs in double precision, and nothing of the process changes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.func import vmap

from pyro_nf.model import doubled, in_double

DATA = torch.full((5,), 45.0)
HITS = torch.tensor([18.0, 17.0, 12.0, 9.0, 7.0])


def counts(trials, hits):
    """Of which the log densities are differences of large numbers."""
    kappa = pyro.sample("kappa", dist.Pareto(torch.ones(()), torch.tensor(1.5)))
    with pyro.plate("players", 5):
        chance = pyro.sample("chance", dist.Beta(0.27 * kappa, torch.ones(5) * 0.73 * kappa))
        pyro.sample("hits", dist.Binomial(trials, chance), obs=hits)


def log_density(values, trials, hits):
    trace = poutine.trace(poutine.condition(counts, values)).get_trace(trials, hits)
    return trace.log_prob_sum()


def test_a_density_of_large_numbers_is_that_of_a_double_run():
    values = {"kappa": torch.tensor(3e6), "chance": torch.full((5,), 0.27)}
    found = in_double(lambda: log_density(doubled(values), DATA, HITS))
    # The same with all numbers double beforehand: those of the model's own code are exact.
    exact = log_density(doubled(values), DATA.double(), HITS.double())
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(float(exact), rel=1e-6)
    assert abs(float(log_density(values, DATA, HITS) - exact)) > 0.1  # or there would be no need


@pytest.mark.parametrize(
    "run",
    [
        lambda: nn.Linear(5, 2)(DATA),
        lambda: torch.zeros(3) + torch.tensor([1.0, 2.0, 3.0]),
        lambda: DATA.double().float(),
        lambda: (DATA > 1).float(),
        lambda: DATA.double().to(torch.float32),
        lambda: vmap(lambda row: row.sum() * torch.ones(()))(DATA.reshape(5, 1)),
    ],
)
def test_whatever_makes_single_numbers_makes_double_ones(run):
    assert run().dtype == torch.float32
    assert in_double(run).dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32
    assert DATA.dtype == torch.float32


def test_no_digits_are_lost_on_the_way():
    third = torch.ones((), dtype=torch.float64) / 3
    assert float(in_double(lambda: third.to(torch.float32).float())) == float(third)


def test_integers_stay():
    assert in_double(lambda: torch.arange(3).sum()).dtype == torch.int64


def test_none_where_there_is_no_such_run():
    def fussy():
        if DATA.dtype != torch.float32:
            raise TypeError
        raise RuntimeError("expected single numbers")

    assert in_double(lambda: torch.zeros(2) @ torch.zeros(3)) is None
    with pytest.raises(TypeError):
        in_double(fussy)
