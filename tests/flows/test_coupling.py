"""What all couplings share: halves, mixings, and networks of one input."""

import math

import pytest
import torch
from flow_cases import DOUBLE, perturbed

from pyro_nf import make_flow
from pyro_nf.flows import AdditiveCoupling


@pytest.mark.parametrize("name", ["spline_coupling", "affine_coupling", "additive_coupling"])
def test_units_of_a_network_bend_at_places_of_their_own(name):
    first = make_flow(f"{name}(hidden=(500,), kinks=2)", 2).net
    places = -first.biases[0] / first.weights[0].squeeze(-1)
    assert 0.5 < places.abs().median() < 4
    assert not make_flow(name, 2).net.biases[0].any()
    assert not make_flow(f"{name}(hidden=(), kinks=2)", 2).net.biases[0].any()  # has no units
    with pytest.raises(ValueError, match="kinks must be a number from 0, got -1"):
        make_flow(f"{name}(kinks=-1)", 2)


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("options", ["", '(mix="permutation")', '(mix="orthogonal")'])
def test_a_stack_of_two_couplings_moves_every_coordinate(dim, options):
    flow = perturbed(f"additive_coupling{options}*2", dim)
    x = torch.randn(100, dim, dtype=DOUBLE)
    moved = (flow(x) - x).abs().amax(0)
    assert bool((moved > 1e-3).all())
    first, second, third = make_flow(f"additive_coupling{options}*3", 50)
    assert [first.flip, second.flip, third.flip] == [False, True, False]
    if options:  # pairs share a mixing, and the next pair has its own
        assert torch.equal(first.mixing, second.mixing)
        assert not torch.equal(first.mixing, third.mixing)
    else:  # a riffle starts from the order as it is
        assert first.mixing is None
        assert second.mixing is None
        assert torch.equal(third.mixing.sort().values, torch.arange(50))


def test_one_coupling_moves_one_half_by_the_other():
    x = torch.randn(100, 5, dtype=DOUBLE)
    for flip, moved in ((False, slice(2, 5)), (True, slice(0, 2))):
        gap = perturbed(f"additive_coupling(flip={flip})", 5)(x) - x
        assert bool((gap[:, moved] != 0).all())
        assert gap.count_nonzero() == gap[:, moved].numel()


def test_orthogonal_mixings_are_so_in_any_precision():
    for dim in (1, 2, 5, 50):
        flow = AdditiveCoupling(dim, mix="orthogonal")
        for dtype in (torch.float32, DOUBLE, torch.float32):
            q = flow.to(dtype).mixing
            gap = q @ q.mT - torch.eye(dim, dtype=dtype)
            assert q.dtype is dtype
            assert gap.abs().max() < 20 * torch.finfo(dtype).eps


def test_permutations_are_so():
    order = AdditiveCoupling(50, mix="permutation").double().mixing
    assert torch.equal(order.sort().values, torch.arange(50))
    assert not torch.equal(order, torch.arange(50))


@pytest.mark.parametrize("dim", range(2, 40))
def test_a_riffle_soon_parts_any_two_coordinates(dim):
    pairs = math.ceil(math.log2(dim))
    together = torch.ones(dim, dim, dtype=torch.bool)
    for flow in make_flow([f"additive_coupling*{2 * pairs}"], dim):
        order = torch.arange(dim) if flow.mixing is None else flow.mixing
        half = torch.zeros(dim, dtype=torch.bool)
        half[order[: dim // 2]] = True
        together &= half.unsqueeze(0) == half.unsqueeze(1)
    assert torch.equal(together, torch.eye(dim, dtype=torch.bool))
