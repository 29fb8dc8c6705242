"""Capture and recapture: Cormack, Jolly and Seber in five ways, as Pyro's example has them.

Animals are met, or not, in each of seven years. From the first meeting on one is alive or not,
which a loop over years draws and the twins sum by hand.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from gallery_models.written import Makers, Written

__all__ = ["MODELS"]

ANIMALS, YEARS = 60, 7


def _captures():
    """In which years each animal was met, and its sex."""
    rng = np.random.default_rng(66)
    sex = rng.integers(0, 2, ANIMALS)
    met = np.zeros((ANIMALS, YEARS))
    for i in range(ANIMALS):
        first = rng.integers(0, YEARS - 1)
        met[i, first] = alive = 1
        for t in range(first + 1, YEARS):
            alive = alive and rng.random() < [0.55, 0.75][sex[i]]
            met[i, t] = alive and rng.random() < 0.8
    return torch.tensor(met).float(), torch.tensor(sex).float()


def _by_hand(y, phi, rho):
    """The same, summed: year after year to the last meeting, then never met again."""
    ever = y.cumsum(1) > 0  # by the end of a year
    later = y.flip(1).cumsum(1).flip(1) > 0  # in a year or after it
    total, unmet = 0.0, 1.0  # the chance that one alive now is never met again
    for t in reversed(range(1, y.shape[1])):
        seen = torch.where(y[:, t] == 1, phi[t] * rho, phi[t] * (1 - rho))
        total = total + torch.where(ever[:, t - 1] & later[:, t], seen.log(), 0.0).sum()
        unmet = 1 - phi[t] + phi[t] * (1 - rho) * unmet
        last = (y[:, t - 1] == 1) & ~later[:, t]
        total = total + torch.where(last, unmet.log(), 0.0).sum()
    pyro.factor("y", total)


def _logit(p):
    return p.log() - (-p).log1p()


def cjs_1() -> Written:
    """One chance to survive a year."""

    def model(capture_history):
        N, T = capture_history.shape  # noqa: N806
        phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        with pyro.plate("animals", N, dim=-1):
            z = torch.ones(N)
            first_capture_mask = torch.zeros(N).bool()
            for t in pyro.markov(range(T)):
                known = first_capture_mask.float()
                mu_z = known * phi * z + (1 - known)
                z = pyro.sample(f"z_{t}", dist.Bernoulli(mu_z), infer={"enumerate": "parallel"})
                with poutine.mask(mask=first_capture_mask):
                    pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
                first_capture_mask = first_capture_mask | capture_history[:, t].bool()

    def twin(capture_history):
        phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        _by_hand(capture_history, [phi] * YEARS, rho)

    return Written(model, (_captures()[0],), twin=twin)


def cjs_2() -> Written:
    """A chance for each year, sampled in the loop."""

    def model(capture_history):
        N, T = capture_history.shape  # noqa: N806
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        z = torch.ones(N)
        first_capture_mask = torch.zeros(N).bool()
        animals_plate = pyro.plate("animals", N, dim=-1)
        for t in pyro.markov(range(T)):
            phi_t = pyro.sample(f"phi_{t}", dist.Uniform(0.0, 1.0)) if t > 0 else 1.0
            known = first_capture_mask.float()
            with animals_plate:
                mu_z = known * phi_t * z + (1 - known)
                z = pyro.sample(f"z_{t}", dist.Bernoulli(mu_z), infer={"enumerate": "parallel"})
                with poutine.mask(mask=first_capture_mask):
                    pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
            first_capture_mask = first_capture_mask | capture_history[:, t].bool()

    def twin(capture_history):
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        phi = [pyro.sample(f"phi_{t}", dist.Uniform(0.0, 1.0)) for t in range(1, YEARS)]
        _by_hand(capture_history, [1.0, *phi], rho)

    return Written(model, (_captures()[0],), twin=twin)


def cjs_3() -> Written:
    """A random effect for each year, in the loop."""

    def model(capture_history):
        N, T = capture_history.shape  # noqa: N806
        phi_mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
        phi_sigma = pyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        z = torch.ones(N)
        first_capture_mask = torch.zeros(N).bool()
        animals_plate = pyro.plate("animals", N, dim=-1)
        for t in pyro.markov(range(T)):
            phi_t = 1.0
            if t > 0:
                effect = dist.Normal(_logit(phi_mean), phi_sigma)
                phi_t = torch.sigmoid(pyro.sample(f"phi_logit_{t}", effect))
            known = first_capture_mask.float()
            with animals_plate:
                mu_z = known * phi_t * z + (1 - known)
                z = pyro.sample(f"z_{t}", dist.Bernoulli(mu_z), infer={"enumerate": "parallel"})
                with poutine.mask(mask=first_capture_mask):
                    pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
            first_capture_mask = first_capture_mask | capture_history[:, t].bool()

    def twin(capture_history):
        phi_mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
        phi_sigma = pyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        phi = [1.0]
        for t in range(1, YEARS):
            effect = dist.Normal(_logit(phi_mean), phi_sigma)
            phi.append(torch.sigmoid(pyro.sample(f"phi_logit_{t}", effect)))
        _by_hand(capture_history, phi, rho)

    def numbers(draws):
        # Chances, since the deviation of their logits is that of a few draws that are far away.
        chances = {f"phi_{t}": draws[f"phi_logit_{t}"].sigmoid() for t in range(1, YEARS)}
        logits = {name: _logit(draws[name]) for name in ("phi_mean", "rho")}
        return chances | logits | {"phi_sigma": _logit(draws["phi_sigma"] / 10)}

    return Written(model, (_captures()[0],), twin=twin, numbers=numbers)


def cjs_4() -> Written:
    """A random effect for each animal."""

    def model(capture_history):
        N, T = capture_history.shape  # noqa: N806
        phi_mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
        phi_sigma = pyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        with pyro.plate("animals", N, dim=-1):
            effect = dist.Normal(_logit(phi_mean), phi_sigma)
            phi = torch.sigmoid(pyro.sample("phi_logit", effect))
            z = torch.ones(N)
            first_capture_mask = torch.zeros(N).bool()
            for t in pyro.markov(range(T)):
                known = first_capture_mask.float()
                mu_z = known * phi * z + (1 - known)
                z = pyro.sample(f"z_{t}", dist.Bernoulli(mu_z), infer={"enumerate": "parallel"})
                with poutine.mask(mask=first_capture_mask):
                    pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
                first_capture_mask = first_capture_mask | capture_history[:, t].bool()

    def twin(capture_history):
        phi_mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
        phi_sigma = pyro.sample("phi_sigma", dist.Uniform(0.0, 10.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(ANIMALS), 1.0).to_event(1))
        logit = pyro.deterministic("phi_logit", _logit(phi_mean) + phi_sigma * z)
        _by_hand(capture_history, [torch.sigmoid(logit)] * YEARS, rho)

    return Written(model, (_captures()[0],), twin=twin)


def cjs_5() -> Written:
    """Chances by sex."""

    def model(capture_history, sex):
        N, T = capture_history.shape  # noqa: N806
        phi_male = pyro.sample("phi_male", dist.Uniform(0.0, 1.0))
        phi_female = pyro.sample("phi_female", dist.Uniform(0.0, 1.0))
        rho_male = pyro.sample("rho_male", dist.Uniform(0.0, 1.0))
        rho_female = pyro.sample("rho_female", dist.Uniform(0.0, 1.0))
        phi = sex * phi_male + (1 - sex) * phi_female
        rho = sex * rho_male + (1 - sex) * rho_female
        with pyro.plate("animals", N, dim=-1):
            z = torch.ones(N)
            first_capture_mask = torch.zeros(N).bool()
            for t in pyro.markov(range(T)):
                known = first_capture_mask.float()
                mu_z = known * phi * z + (1 - known)
                z = pyro.sample(f"z_{t}", dist.Bernoulli(mu_z), infer={"enumerate": "parallel"})
                with poutine.mask(mask=first_capture_mask):
                    pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
                first_capture_mask = first_capture_mask | capture_history[:, t].bool()

    def twin(capture_history, sex):
        names = ("phi_male", "phi_female", "rho_male", "rho_female")
        chances = [pyro.sample(name, dist.Uniform(0.0, 1.0)) for name in names]
        phi = sex * chances[0] + (1 - sex) * chances[1]
        rho = sex * chances[2] + (1 - sex) * chances[3]
        _by_hand(capture_history, [phi] * YEARS, rho)

    return Written(model, _captures(), twin=twin)


MODELS: Makers = {make.__name__: make for make in (cjs_1, cjs_2, cjs_3, cjs_4, cjs_5)}
