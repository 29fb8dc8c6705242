"""The band against enumeration, and against uniform numbers that are drawn."""

from itertools import product

import pytest
import torch

from pyro_nf.studies.bands import Band


def test_chance_is_that_of_enumeration():
    band = Band(4, 5)
    cells = torch.tensor(list(product(range(5), repeat=4)))  # all equally likely
    levels = band.levels(band.counts((cells.double().mT + 0.5) / 5))
    for level in (0.05, 0.1, 0.3, 0.6):
        inside = float((levels >= level).double().mean())
        assert band.chance(level) == pytest.approx(inside, abs=1e-12)


def test_levels_are_those_of_one_binomial():
    # One point at a half: 3 or fewer of 10, or as many above, by the binomial coefficients.
    band = Band(10, 2)
    counts = torch.tensor([[3], [5], [7]])
    few = (1 + 10 + 45 + 120) / 2**10
    assert band.levels(counts)[0] == pytest.approx(2 * few)
    assert band.levels(counts)[2] == pytest.approx(2 * few)
    assert band.levels(counts)[1] > 1


def test_limits_are_the_counts_of_at_least_a_level():
    band = Band(50, 10)
    low, high = band.limits(0.01)
    for inside, outside in ((low, low - 1), (high, high + 1)):
        for place in range(9):
            counts = (50 * band.z).round().long()
            counts[place] = inside[place]
            assert band.levels(counts) >= 0.01
            if 0 <= outside[place] <= 50:
                counts[place] = outside[place]
                assert band.levels(counts) < 0.01


@pytest.mark.parametrize("n", [30, 200])
def test_uniform_numbers_stay_inside_as_often_as_promised(n):
    band = Band(n, 100)
    level = band.level_of(0.2)
    assert band.chance(level) >= 0.8
    drawn = torch.rand(n, 4000, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    outside = float((band.levels(band.counts(drawn)) < level).double().mean())
    assert abs(outside - (1 - band.chance(level))) < 4 * (0.16 / 4000) ** 0.5
