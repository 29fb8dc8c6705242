"""Flow itself: chains, views with a fixed context, and what is refused."""

import pyro.distributions as dist
import pytest
import torch
from flow_cases import DOUBLE, perturbed, standard_normal

from pyro_nf import Chain, Flow, FlowDistribution, make_flow
from pyro_nf.flows import (
    IAF,
    AdditiveCoupling,
    Diag,
    Householder,
    Planar,
    SplineCoupling,
    Sylvester,
    Tril,
)
from pyro_nf.flows.flow import Conditioned


def test_a_conditioned_flow():
    flow = perturbed("planar*2 + permute", 3, context_dim=2)
    x, context = torch.randn(20, 3, dtype=DOUBLE), torch.randn(20, 2, dtype=DOUBLE)
    fixed = flow.condition(context)
    assert isinstance(fixed, Conditioned)
    assert fixed.context_dim == 0
    y, log_det = flow.forward_and_log_det(x, context)
    assert torch.equal(fixed(x), y)
    assert torch.equal(fixed.log_abs_det_jacobian(x, y), log_det)
    assert torch.allclose(fixed.inv(y), x)
    assert {id(p) for p in fixed.parameters()} == {id(p) for p in flow.parameters()}
    q = FlowDistribution(standard_normal(3).expand((20,)), fixed)
    draws = q.rsample()
    assert torch.allclose(q.log_prob(draws), q.log_prob(draws.clone()))
    q.log_prob(draws).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in flow.parameters())


def test_a_chain():
    first, second = Planar(3), Tril(3)
    chain = Chain([first, second])
    assert list(chain) == [first, second]
    assert len(chain) == 2
    x = torch.randn(5, 3)
    assert torch.equal(chain(x), second(first(x)))
    expected = first.log_abs_det_jacobian(x, None) + second.log_abs_det_jacobian(first(x), None)
    assert torch.equal(chain.log_abs_det_jacobian(x, None), expected)
    assert Chain([first, Diag(3)]).context_dim == 0
    assert Chain([Planar(3, 2), Diag(3)]).context_dim == 2
    assert Chain(iter([first])).dim == 3


def test_pyro_may_ask_for_a_cache():
    flow = Planar(3)
    assert flow.with_cache(1) is flow
    x = dist.TransformedDistribution(standard_normal(3), [flow.double()]).rsample((5,))
    assert x.shape == (5, 3)


def test_repr_shows_the_stack():
    shown = repr(make_flow("planar*2 + additive_coupling(flip=True)", 3, context_dim=2))
    assert "3, context_dim=2, layers=2" in shown
    assert "3, context_dim=2, flip=True" in shown


class Empty(Flow):
    pass


class OneWay(Flow):
    def forward_and_log_det(self, x, context=None):
        return x, x.new_zeros(x.shape[:-1])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Chain([]), ValueError, "a chain needs at least one flow, got none"),
        (lambda: Chain([Planar(2), Planar(3)]), ValueError, r"agree on dim, got \[2, 3\]"),
        (
            lambda: Chain([Planar(2, 1), Planar(2, 3)]),
            ValueError,
            r"agree on context_dim, got \[1, 3\]",
        ),
        (lambda: Planar(0), ValueError, "dim must be 1 or more, got 0"),
        (lambda: Planar(2.0), TypeError, r"dim must be an int, got 2\.0"),
        (lambda: Planar(2, -1), ValueError, "context_dim must be 0 or more, got -1"),
        (lambda: Empty(2)(torch.zeros(2)), NotImplementedError, "Empty must define forward_and"),
        (
            lambda: OneWay(2).inv(torch.zeros(2)),
            NotImplementedError,
            "OneWay has no inverse.*define",
        ),
        (
            lambda: Planar(2, 3)(torch.zeros(2)),
            ValueError,
            r"context_dim=3 and got no context; type flow.condition\(context\)",
        ),
        (
            lambda: Planar(2, 3).condition(torch.zeros(5, 4))(torch.zeros(2)),
            ValueError,
            r"expected a context of shape \(\*, 3\), got \(5, 4\)",
        ),
        (
            lambda: Planar(2, 3).condition(torch.zeros(()))(torch.zeros(2)),
            ValueError,
            r"expected a context of shape \(\*, 3\), got \(\)",
        ),
        (
            lambda: AdditiveCoupling(2).condition(torch.zeros(4))(torch.zeros(2)),
            ValueError,
            "make the flow with context_dim to use one",
        ),
        (lambda: AdditiveCoupling(2, mix="any"), ValueError, 'mix must be "riffle", "perm'),
        (lambda: AdditiveCoupling(2, hidden=64), ValueError, r"such as \(64, 64\), got 64"),
        (lambda: Householder(2, pairs=0), ValueError, "pairs must be 1 or more, got 0"),
        (lambda: Sylvester(2, rank=0), ValueError, "rank must be 1 or more, got 0"),
        (lambda: SplineCoupling(2, bins=1), ValueError, "bins must be a whole number from 2 to 50"),
        (lambda: SplineCoupling(2, bound=-1), ValueError, "bound must be a positive number, got"),
        (lambda: IAF(2, after=Planar(2)), ValueError, "after must be the layer before this one"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
