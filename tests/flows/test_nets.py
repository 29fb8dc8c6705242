"""Networks and parameters: what they see, how they start, how far they move."""

import pytest
import torch
from flow_cases import DOUBLE

from pyro_nf import MLP, make_flow
from pyro_nf.flows.nets import MaskedMLP


@pytest.mark.parametrize("dim", [1, 2, 5, 50])
@pytest.mark.parametrize("hidden", [(), (7,), (32, 16)])
def test_masks_let_an_output_see_what_is_before_it(dim, hidden):
    for order in (torch.arange(1, dim + 1), torch.randperm(dim) + 1):
        net = MaskedMLP(order, 2, hidden, context_dim=3).double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_()
        x, context = torch.randn(dim, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
        _, units = net.forward_and_units(x, context)
        expected = torch.autograd.functional.jacobian(lambda x, net=net, c=context: net(x, c), x)
        assert torch.allclose(net.jacobian(units), expected, atol=1e-10)
        hidden_from = order.repeat(2).unsqueeze(-1) <= order
        assert not expected[hidden_from].any()
        if dim in (2, 5):
            assert bool((expected[~hidden_from] != 0).all())
        heard = torch.autograd.functional.jacobian(lambda c, net=net, x=x: net(x, c), context)
        assert bool((heard != 0).all())


def test_networks_start_small_in_the_last_layer_only():
    # Also where the output has the size of a hidden layer.
    spreads = [weight.std().item() for weight in MLP(32, 32, (32, 32)).weights]
    assert spreads[0] == pytest.approx(32**-0.5, rel=0.2)
    assert spreads[1] == pytest.approx(32**-0.5, rel=0.2)
    assert spreads[2] == pytest.approx(0.01 * 32**-0.5, rel=0.2)


@pytest.mark.parametrize(("formula", "share"), [("planar*3", 0.1), ("diag", 1.0)])
def test_how_far_many_features_move_a_flow_at_once(formula, share):
    flow = make_flow(formula, 4, context_dim=100).double()
    params = flow.params
    with torch.no_grad():
        params.weight.fill_(1e-3)  # as after a step of Adam's
    moved = torch.cat([part.reshape(-1) for part in params(torch.ones(100, dtype=DOUBLE))])
    assert torch.allclose(moved - params.theta, torch.tensor(share * 0.1, dtype=DOUBLE))
