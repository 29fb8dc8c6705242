"""Inverse autoregressive flows: their order, and their score."""

import torch
from flow_cases import DOUBLE, perturbed

from pyro_nf import make_flow
from pyro_nf.flows import IAF


def test_iaf_reverses_the_order_from_layer_to_layer():
    assert [flow.flip for flow in make_flow("iaf*3 + iaf(flip=True)", 3)] == [0, 1, 0, 1]
    x = torch.randn(5, dtype=DOUBLE)
    for flip in (False, True):
        flow = perturbed(f"iaf(flip={flip})", 5)
        jacobian = torch.autograd.functional.jacobian(flow, x)
        assert torch.equal(jacobian, jacobian.triu() if flip else jacobian.tril())


def test_iaf_carries_the_score_where_that_is_cheap():
    assert [IAF(dim).carries_score for dim in (1, 64, 65)] == [True, True, False]
