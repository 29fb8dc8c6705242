"""A pool of draws of the posterior, and the fits that learn from it."""

import math
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from densities import DOUBLE, bent, bumps, flat, scaled, target_of
from pyro.infer.autoguide import init_to_value
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide, Flow, fit, make_flow
from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.checkpoint import Checkpoint
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.step import Step
from pyro_nf.model.target import Target


def test_fit_covers_both_modes():
    posterior = fit(flat(2, bumps), seed=0, progress=False, refine=False)
    share = float((posterior.draws(4000)["u"].mean(-1) > 0).double().mean())
    assert abs(share - 0.7) < 0.05
    assert "there are 2 modes" in posterior.message
    assert posterior.diagnose(4000).elbo > -0.1  # the log evidence is 0


# ------------------------------------------------------------ the pool


def filled(flow, model, particles=16):
    guide, target = target_of(model, flow)
    pool = ChainPool(guide, target, particles, RECIPE)
    pool.fill()
    return guide, pool


def test_there_is_no_pool_where_there_can_be_none():
    class Silent(Flow):
        """Moves nothing, and does not carry the score."""

        def __init__(self, dim, context_dim=0):
            super().__init__(dim, context_dim)
            self.shift = torch.nn.Parameter(torch.zeros(dim, dtype=DOUBLE))

        def forward_and_log_det(self, x, context=None):
            return x + self.shift, torch.zeros_like(x[..., 0])

    with pytest.warns(UserWarning, match="no forward_and_score"):
        guide, _ = target_of(flat(2, scaled), [Silent(2)])
    assert not ChainPool.is_possible(guide, Target.of(guide))
    guide, _ = target_of(flat(2, scaled), gradient="total")
    assert not ChainPool.is_possible(guide, Target.of(guide))


def test_a_step_takes_another_objective_in_every_tier():
    torch.manual_seed(0)
    model = flat(2, scaled)
    guide, pool = filled("affine_coupling*2", model)
    elbo = pyro.infer.Trace_ELBO(8, vectorize_particles=True, max_plate_nesting=0)
    step = Step(elbo, model, guide)
    assert step.compile("quick")
    step.use_objective(pool.objective)
    assert step.tier == "quick", step.reason
    before = pool.draws.clone()
    pool.refill()
    assert not torch.equal(before, pool.draws)
    eager = Step(elbo, model, guide)
    eager.use_objective(pool.objective)
    starts = step.parameters()
    ends = []
    for one in (step, eager):
        one.set_parameters(starts)
        torch.manual_seed(1)
        one(1e-3)
        ends.append(one.parameters())
    assert torch.allclose(*ends, rtol=1e-10, atol=1e-12)


def test_chains_start_where_the_numerics_do_not_fail():
    def picky(u):
        factor = torch.linalg.cholesky((1 - u[0]).reshape(1, 1))  # raises for what is too large
        return u.square().sum(-1) / 2 + 0 * factor.sum()

    torch.manual_seed(0)
    at_zero = init_to_value(values={"u": torch.zeros(2, dtype=DOUBLE)})
    pool = ChainPool(*target_of(flat(2, picky), init_scale=1.0, init_loc_fn=at_zero), 32, RECIPE)
    pool.fill()
    assert float(pool.draws[:, 0].max()) <= 1


def test_a_pool_stays_empty_where_no_point_is_possible():
    class Nowhere:
        """A log density that is nowhere finite."""

        dim, vectorized = 2, True

        def __call__(self, u):
            return u.sum(-1) * math.nan

    guide, _ = target_of(flat(2, bent))
    pool = ChainPool(guide, Nowhere(), 16, RECIPE)
    pool.explore()
    assert not pool.is_of_several_modes
    assert pool.draws is None
    assert not pool.fill()
    assert pool.draws is None
    assert pool.words() == []


def test_a_fit_goes_on_without_a_pool_that_its_step_refuses(monkeypatch, change):
    change(rounds=(100, 200, 300), exact=0.0)
    monkeypatch.setattr(Step, "use_objective", lambda self, objective: False)
    posterior = fit(flat(2, bent), seed=0, progress=False, refine=False)
    assert posterior.message.startswith("finished after 600 steps")


class SeenError(Exception):
    """The pool has been seen, and the rest of the fit does not matter."""


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("rows", "particles", "times"), [(100, 64, RECIPE.refills), (20_000, 16, RECIPE.refills[-1:])]
)
def test_a_dear_model_has_few_particles_and_chains_that_go_on_once(
    monkeypatch, rows, particles, times, whole
):
    """However its rows are written: as a plate, or as one event."""

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
        data = torch.ones(rows, dtype=DOUBLE)
        if whole:
            like = dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], rows), 1.0)
            pyro.sample("y", like.to_event(1), obs=data)
        else:
            with pyro.plate("rows", rows):
                pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=data)

    def stop(pool):
        raise SeenError(pool)

    monkeypatch.setattr(ChainPool, "explore", stop)
    with pytest.raises(SeenError) as found:
        fit(model, seed=0, progress=False)
    (pool,) = found.value.args
    assert pool.particles == particles
    assert pool.refills == times


def test_improper_priors_are_explored_too():
    def model():
        u = pyro.sample("u", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        pyro.factor("energy", -bumps(u))

    start = init_to_value(values={"u": torch.full((2,), 3.0, dtype=DOUBLE)})
    guide = AutoFlowGuide(model, make_flow("diag", 2), init_loc_fn=start, init_scale=1.0).setup()
    torch.manual_seed(0)
    assert ChainPool.is_possible(guide, Target.of(guide))
    pool = ChainPool(guide, Target.of(guide), 16, RECIPE)
    pool.explore()
    assert pool.is_of_several_modes


def keep_killed(tmp_path, monkeypatch, at):
    """Keep the file of a fit as a kill after so many steps would leave it."""
    save = Checkpoint.save

    def save_and_keep(self, content):
        save(self, content)
        if len(content["state"]["losses"]) == at:
            shutil.copy(self.path, tmp_path / "killed")

    monkeypatch.setattr(Checkpoint, "save", save_and_keep)


@pytest.mark.parametrize(
    ("energy", "at"),
    # While the pool is filled; for one mode before that, between its six refills and after them.
    [(bumps, 600), (bent, 400), (bent, 500), (bent, 800)],
)
def test_a_fit_that_learns_from_a_pool_resumes_to_the_last_bit(
    tmp_path, monkeypatch, change, energy, at
):
    change(save_every=0.0, rounds=(200, 200, 500), exact=0.0)
    keep_killed(tmp_path, monkeypatch, at)
    options = {"seed": 0, "progress": False, "refine": False}
    refill = ChainPool.refill
    refills = []

    def refill_and_count(self):
        refills.append(self)
        refill(self)

    monkeypatch.setattr(ChainPool, "refill", refill_and_count)
    whole = fit(flat(2, energy), checkpoint=tmp_path / "whole", **options)
    assert len(whole.losses) > at
    assert len(refills) == (6 if energy is bent else 0)
    resumed = fit(flat(2, energy), checkpoint=tmp_path / "killed", **options)
    assert len(refills) == (0 if energy is bumps else {400: 12, 500: 10, 800: 6}[at])
    assert torch.equal(whole.losses, resumed.losses)
    assert torch.equal(whole.guide.median()["u"], resumed.guide.median()["u"])


def test_an_annealed_fit_that_learns_from_a_pool_resumes_to_the_last_bit(
    tmp_path, monkeypatch, change
):
    """What its step trains changes with the last round, in which it is killed."""
    change(save_every=0.0, rounds=(100, 100, 300), exact=0.0)
    keep_killed(tmp_path, monkeypatch, 350)
    options = {
        "seed": 0,
        "progress": False,
        "refine": False,
        "anneal": "energy",
        "anneal_steps": 100,
    }
    whole = fit(flat(2, bent), checkpoint=tmp_path / "whole", **options)
    assert len(whole.losses) == 600
    resumed = fit(flat(2, bent), checkpoint=tmp_path / "killed", **options)
    assert torch.equal(whole.losses, resumed.losses)


def test_modes_far_from_the_first_are_found_from_those_that_are_found():
    """Three narrow modes in a row, of which the guide knows the first."""

    def row(u):
        centres = torch.tensor([0.0, 10.0, 40.0], dtype=DOUBLE)
        apart = (u.unsqueeze(-2) - centres.unsqueeze(-1)).square().sum(-1) / 2
        return -(-apart).logsumexp(-1)

    torch.manual_seed(0)
    guide, target = target_of(flat(2, row), init_scale=1.0)
    pool = ChainPool(guide, target, 16, RECIPE)
    pool.explore()
    assert pool.modes == 3
    share = (pool.draws[:, 0] > 25).double().mean()
    assert abs(float(share) - 1 / 3) < 0.1
