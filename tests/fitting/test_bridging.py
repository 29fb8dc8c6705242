"""Leapfrog steps that are learned once the flow of a guide is trained."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_nf import AutoFlowGuide, fit

QUIET = {"seed": 0, "progress": False, "refine": False}


def model():
    zero = torch.zeros(2)
    u = pyro.sample("u", dist.Normal(zero, 1.0).to_event(1))
    pyro.factor("bent", -2 * (u[..., 1] - u[..., 0].square()).square())


def guide_of(**options):
    pyro.clear_param_store()
    return AutoFlowGuide(model, "diag", name="same", **options)


def test_steps_and_flow_are_learned_where_the_bound_is_better_for_it():
    plain = fit(model, guide=guide_of(), steps=200, **QUIET)
    guide = guide_of(hamiltonian=4)
    posterior = fit(model, guide=guide, steps=200, **QUIET)
    assert "; with leapfrog steps ELBO" in posterior.message
    assert len(posterior.losses) == 400
    sizes, b, keep, _ = guide.noise()
    assert (sizes > 0.15).all()
    assert (b.diff() > 0).all()
    assert 0 < keep < 1
    gain = posterior.log_weights(10_000).mean() - plain.log_weights(10_000).mean()
    assert gain > 0.1


def test_a_bound_that_is_no_better_leaves_all_as_it_was(change):
    plain, guide = guide_of(), guide_of(hamiltonian=4)
    fit(model, guide=plain, steps=20, **QUIET)
    change(beside_steps=1e9)  # the flow is thrown far away
    with torch.no_grad():
        pyro.clear_param_store()
        guide.setup()
    before = guide.noise.params.theta.clone()
    fit(model, guide=guide, steps=20, **QUIET)
    assert torch.equal(guide.noise.params.theta, before)


def test_all_are_learned_together_where_the_flow_has_the_total_gradient():
    guide = guide_of(hamiltonian=4, gradient="total")
    posterior = fit(model, guide=guide, steps=100, **QUIET)
    assert "with leapfrog steps" not in posterior.message
    assert len(posterior.losses) == 100
    assert (guide.noise()[0] > 0.12).all()


def test_a_checkpoint_knows_that_they_are_learned(tmp_path):
    path, found = tmp_path / "fit.pt", []
    for _ in range(2):
        guide = guide_of(hamiltonian=2)
        found.append((fit(model, guide=guide, steps=50, checkpoint=path, **QUIET), guide))
    (first, one), (again, other) = found
    assert first.message == again.message
    assert torch.equal(first.losses, again.losses)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


@pytest.mark.filterwarnings("ignore:shift")
def test_parameters_of_the_model_stay_where_the_run_has_left_them():
    def with_parameter():
        shift = pyro.param("shift", torch.tensor(0.3))
        u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(u.sum() + shift, 0.5), obs=torch.tensor(1.0))

    shifts = []
    for steps in (0, 2):
        pyro.clear_param_store()
        guide = AutoFlowGuide(with_parameter, "diag", hamiltonian=steps, name="same")
        fit(with_parameter, guide=guide, steps=50, **QUIET)
        shifts.append(pyro.param("shift").item())
    assert shifts[0] == shifts[1]
