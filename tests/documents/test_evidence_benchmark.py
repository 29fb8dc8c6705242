"""The benchmark of evidence and shares runs, on little, and knows what it should."""

import math
from pathlib import Path

import pytest
import torch
from pyro.infer import Trace_ELBO

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_it_runs():
    import evidence

    error, se, share, _, words = evidence.judged(evidence.funnel(), 0, steps=60)
    assert abs(error) < 0.1
    assert 0 < se < 0.1
    assert math.isnan(share)
    assert "refined by" in words


def test_shares_are_counted_by_the_nearest_middle():
    import evidence

    case = evidence.two()  # whose larger mode alone is seen where an ELBO is given
    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=0)
    share = evidence.judged(case, 0, steps=30, elbo=elbo)[2]
    assert share == pytest.approx(0.1)


def test_a_pair_of_wells_has_the_evidence_that_it_says():
    import evidence

    grid = torch.linspace(-12, 12, 200_001)
    well = (-(grid**4) + 6 * grid**2 + grid / 2).logsumexp(0) + math.log(float(grid[1] - grid[0]))
    truth = float(well) + math.log(2 * math.pi) / 2
    assert evidence.wells(1).log_evidence == pytest.approx(truth, abs=1e-6)
