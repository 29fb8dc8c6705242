"""Sylvester flows: planar ones as a special case, and orthonormal planes."""

import pytest
import torch
from flow_cases import DOUBLE, perturbed, with_params
from torch import nn

from pyro_nf.flows import Planar, Sylvester
from pyro_nf.flows.sylvester import orthonormal


def test_one_sylvester_plane_is_planar():
    ours = perturbed("sylvester(rank=1)", 3)
    q = orthonormal(ours.params()[0]).squeeze(0).squeeze(-1)
    steep, bend = ours.params()[2].exp(), nn.functional.elu(ours.params()[1].squeeze(), 0.999)
    theirs = with_params(Planar(3).double(), w=q * steep, u=q * bend / steep, b=ours.params()[3])
    if bend < 0:  # planar bends its u, too
        with_params(theirs, u=q * 0.999 * (bend / 0.999).log1p() / steep)
    x = torch.randn(100, 3, dtype=DOUBLE)
    for got, expected in zip(
        ours.forward_and_log_det(x), theirs.forward_and_log_det(x), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize(("dim", "rank"), [(1, 1), (2, 2), (5, 3), (50, 8), (8, 8)])
def test_reflections_at_once_are_reflections_in_a_row(dim, rank):
    v = torch.randn(4, dim, rank, dtype=DOUBLE)
    q, expected = orthonormal(v), torch.eye(dim, dtype=DOUBLE)
    assert torch.allclose(q.mT @ q, torch.eye(rank, dtype=DOUBLE).expand(4, -1, -1), atol=1e-13)
    for axis in v.unbind(-1):
        outer = axis.unsqueeze(-1) * axis.unsqueeze(-2)
        eye = torch.eye(dim, dtype=DOUBLE)
        expected = expected @ (eye - 2 * outer / axis.square().sum(-1)[:, None, None])
    assert torch.allclose(q, expected[..., :rank], atol=1e-12)


def test_sylvester_starts_in_all_directions():
    q = orthonormal(Sylvester(50, layers=200).params()[0])
    assert bool(((50 * q.square()).mean((0, 2)) - 1).abs().max() < 0.2)
