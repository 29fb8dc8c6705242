"""A normal approximation of independent numbers in many dimensions."""

import math

import torch

from pyro_nf.sampling import mean_field


def test_a_normal_density_of_independent_numbers_is_found():
    torch.manual_seed(0)
    middle, width = 3 * torch.randn(600), torch.rand(600) + 0.1

    def log_density(u):
        return -((u - middle) / width).square().sum(-1) / 2

    mean, scale = mean_field(log_density, torch.zeros(600), torch.full((600,), 0.1))
    # Of 256 draws a round an estimate of s^2 has an error of a tenth, of which 50 rounds at a rate
    # of a fifth leave a fiftieth.
    assert float(((mean - middle) / width).abs().max()) < 0.05
    assert float((scale / width).log().abs().max()) < 0.1


def test_of_dependent_numbers_the_widths_are_those_given_all_others():
    """The mean-field optimum of a normal density has the diagonal of its precision."""
    precision = torch.tensor([[2.0, 1.2], [1.2, 1.0]])

    def log_density(u):
        return -torch.einsum("ni,ij,nj->n", u, precision, u) / 2

    mean, scale = mean_field(log_density, torch.ones(2), torch.ones(2))
    assert float(mean.abs().max()) < 0.1
    assert float((scale * precision.diagonal().sqrt()).log().abs().max()) < 0.1


def test_where_the_density_is_no_number_the_start_is_kept():
    start, scale = torch.ones(3), torch.full((3,), 0.1)
    found = mean_field(lambda u: u.sum(-1) * math.nan, start, scale)
    assert torch.equal(found[0], start)
    assert torch.equal(found[1], scale)
