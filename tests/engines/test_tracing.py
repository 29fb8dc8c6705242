"""A function by its graph, or as it is where that would not be the same."""

import pytest
import torch

from pyro_nf.engines.record import UntraceableError, record
from pyro_nf.engines.tracing import NothingLeavesTheGraph, enumerated_sum, traced


def test_a_value_taken_out_is_refused_and_the_function_runs_as_it_is():
    def function(x):
        return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(UntraceableError, match="takes a value out of a tensor"):
        record(function, [torch.ones(3)])
    assert traced(function, torch.ones(3)) is function
    assert traced(lambda x: x * float(torch.ones(()) + 1), torch.ones(3))(torch.ones(3))[0] == 2


def test_a_function_that_can_be_traced_gives_the_same_for_other_values():
    def function(x):
        return (x.sin() @ x.mT).cumsum(-1)

    run, other = traced(function, torch.randn(4, 3)), torch.randn(4, 3)
    assert run is not function
    torch.testing.assert_close(run(other), function(other))


def test_while_a_step_is_traced_a_loss_stays_a_tensor():
    loss = torch.tensor(2.0, requires_grad=True)
    with NothingLeavesTheGraph():
        taken = (loss * 3).item()
    assert isinstance(taken, torch.Tensor)
    assert not taken.requires_grad
    assert float(taken) == 6.0


def test_a_matrix_without_a_factor_gives_nan_and_no_error():
    good, bad = torch.eye(2), -torch.eye(2)
    both = torch.stack([good, bad])
    with NothingLeavesTheGraph():
        factors = torch.linalg.cholesky(both)
        inverse = torch.linalg.inv(torch.zeros(2, 2))
    assert torch.equal(factors[0], good)
    assert bool(factors[1].isnan().all())
    assert bool(inverse.isnan().all())
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(both)


def test_terms_of_no_weight_are_kept_in_an_enumerated_sum_alone():
    some = torch.tensor([True, False])
    with NothingLeavesTheGraph():
        assert not bool(some.all())  # code of the model may ask
        with enumerated_sum():
            assert bool(some.all())
        assert not bool(some.all())
    with enumerated_sum():
        assert not bool(some.all())  # nothing is traced
