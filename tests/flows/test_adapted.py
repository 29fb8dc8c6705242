"""Strangers' transforms as flows: their parameters, constants and caches."""

from copy import deepcopy
from functools import partial

import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from torch import nn
from torch.distributions import constraints, transforms

from pyro_nf import FlowDistribution, make_flow
from pyro_nf.flows import Planar
from pyro_nf.testing import check_flow


def scaling(dim):
    return transforms.AffineTransform(0.0, nn.Parameter(1.0 + torch.arange(dim)))


STRANGERS = {
    "planar": pyro_transforms.planar,
    "planar twice": partial(pyro_transforms.iterated, 2, pyro_transforms.planar),
    "radial": pyro_transforms.radial,
    "sylvester": pyro_transforms.sylvester,
    "householder": pyro_transforms.householder,
    "spline": pyro_transforms.spline,
    "spline_coupling": pyro_transforms.spline_coupling,
    "affine_coupling": pyro_transforms.affine_coupling,
    "affine_autoregressive": pyro_transforms.affine_autoregressive,
    "block_autoregressive": pyro_transforms.block_autoregressive,
    "inverse": lambda dim: pyro_transforms.spline(dim).inv,
    "inverse autoregressive": lambda dim: pyro_transforms.affine_autoregressive(dim).inv,
    "scaling": scaling,
    "inverse scaling": lambda dim: scaling(dim).inv,
    "independent": lambda dim: transforms.IndependentTransform(scaling(dim), 1),
    "composed": lambda dim: transforms.ComposeTransform(
        [pyro_transforms.spline(dim), scaling(dim), transforms.ExpTransform()]
    ),
    "inverse of composed": lambda dim: (
        transforms.ComposeTransform([pyro_transforms.affine_coupling(dim), scaling(dim)]).inv
    ),
    "composed of inverses": lambda dim: transforms.ComposeTransform(
        [pyro_transforms.spline(dim).inv, scaling(dim).inv]
    ),
    "composed module": lambda dim: pyro_transforms.ComposeTransformModule(
        [pyro_transforms.spline(dim), scaling(dim), pyro_transforms.radial(dim)]
    ),
    "modules side by side": lambda dim: transforms.CatTransform(
        [pyro_transforms.spline(1), pyro_transforms.spline(dim - 1)], -1, [1, dim - 1]
    ),
    "side by side": lambda dim: transforms.CatTransform(
        [scaling(1), transforms.IndependentTransform(scaling(dim - 1), 1)], -1, [1, dim - 1]
    ),
}


def leaves(value):
    """The tensors that a gradient of the value flows into, found in the graph itself."""
    waiting, seen, found = [value.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [node.variable] if hasattr(node, "variable") else []
        waiting += [other for other, _ in node.next_functions]
    return found


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_parameters_are_found_and_trained(name):
    flow = make_flow(STRANGERS[name], 3)
    found = dict(flow.named_parameters())
    used = leaves(sum(part.sum() for part in flow.forward_and_log_det(torch.rand(5, 3))))
    assert used
    assert {id(leaf) for leaf in used} == {id(parameter) for parameter in found.values()}
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    optimizer = torch.optim.SGD(flow.parameters(), 1e-2)
    before = deepcopy(flow.state_dict())
    for _ in range(2):
        optimizer.zero_grad()
        q = FlowDistribution(base, flow)
        draws = q.rsample((64,))
        (q.log_prob(draws) + draws.tanh().sum(-1)).mean().backward()
        optimizer.step()
    for key, parameter in found.items():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_as_given(name):
    """An instance gives what the transform itself gives, and can be copied after use."""
    transform = STRANGERS[name](3)
    x = torch.rand(5, 3) / 2 + 0.2
    expected = transform(x)
    theirs = transform.log_abs_det_jacobian(x, expected)
    flow = make_flow(transform, 3)
    y, log_det = flow.forward_and_log_det(x)
    assert torch.equal(y, expected)
    summed = theirs if transform.domain.event_dim else theirs.sum(-1)
    assert torch.allclose(log_det, summed, atol=1e-6)
    assert torch.equal(deepcopy(flow).forward_and_log_det(x)[0], y)


@pytest.mark.parametrize(
    "spec",
    [
        pyro_transforms.spline,
        pyro_transforms.spline_coupling,
        pyro_transforms.affine_coupling,
        pyro_transforms.block_autoregressive,
        pyro_transforms.planar,
        pyro_transforms.permute,  # keeps its permutation in a plain attribute
        lambda dim: pyro_transforms.spline(dim).inv,
        lambda dim: transforms.ComposeTransform([pyro_transforms.spline(dim).inv, scaling(dim)]),
        lambda dim: transforms.AffineTransform(torch.randn(dim), torch.rand(dim) + 1),
        lambda dim: pyro_transforms.LowerCholeskyAffine(torch.zeros(dim), 2 * torch.eye(dim)),
        lambda dim: transforms.TanhTransform(),
        lambda dim: transforms.AffineTransform(0.0, 2.0, cache_size=1),
    ],
)
def test_strangers_keep_the_contract(spec):
    report = check_flow(spec, 3)
    assert report.inverse is (
        spec not in (pyro_transforms.planar, pyro_transforms.block_autoregressive)
    )


def test_strangers_move_with_the_model():
    flow = make_flow(transforms.AffineTransform(torch.zeros(3), torch.full((3,), 2.0)), 3).double()
    y, log_det = flow.forward_and_log_det(torch.ones(3, dtype=torch.float64))
    assert y.dtype == log_det.dtype == torch.float64
    assert log_det.item() == pytest.approx(3 * torch.tensor(2.0).log().item(), abs=1e-7)


def test_strangers_keep_nothing_computed():
    for factory in (
        pyro_transforms.planar,
        pyro_transforms.spline_coupling,
        pyro_transforms.affine_coupling,
    ):
        flow = make_flow(factory, 3)
        x = torch.randn(5, 3)
        first, _ = flow.forward_and_log_det(x)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.1
        assert not torch.equal(flow.forward_and_log_det(x)[0], first)


def test_an_adapted_transform_without_inverse_says_so():
    flow = make_flow(pyro_transforms.planar, 3)
    with pytest.raises(NotImplementedError, match="Planar cannot invert a value that it has not"):
        flow.inverse_and_log_det(torch.zeros(3))


@pytest.mark.parametrize("dim", [1, 3])
def test_a_wrong_event_dim_is_refused(dim):
    class PerVector(transforms.AffineTransform):
        def log_abs_det_jacobian(self, x, y):
            return super().log_abs_det_jacobian(x, y).sum(-1)

    class PerElement(transforms.AffineTransform):
        domain = codomain = constraints.real_vector

    for wrong in (PerVector, PerElement):
        with pytest.raises(
            ValueError, match=f"{wrong.__name__} declares event_dim=.*declare domain"
        ):
            make_flow(wrong(0.0, 2.0), dim)


def test_equal_transforms_keep_their_own_parameters():
    flow = make_flow([scaling(3), scaling(3), "diag", "diag", Planar(3), Planar(3)], 3)
    assert len(list(flow.parameters())) == 6
