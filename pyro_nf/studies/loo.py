"""How well a posterior predicts each observation from the others, by ArviZ."""

import inspect
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_nf.posterior import Posterior

__all__ = ["Loo", "loo"]

WILD = 0.7  # k-hat from which ArviZ does not trust the share of an observation


class Loo(NamedTuple):
    """The expected log density of left-out observations.

    Attributes:
        each: Of each observation, with shape ``(observations,)``.
        wild: Of how many the importance weights are too wild to trust.
    """

    each: Tensor
    wild: int

    @property
    def error(self) -> float:
        """The standard error of their sum, of observations that are drawn."""
        return error_of_sum(self.each)


def error_of_sum(each: Tensor) -> float:
    """The standard error of the sum of some independent numbers."""
    return float((len(each) * each.var(correction=0)).sqrt())


def loo(posterior: Posterior, n: int) -> Loo | None:
    """Leave one out, by Pareto-smoothed importance sampling; None where the likelihood of one
    observation is not known.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari,
        Gelman and Gabry, 2017) https://arxiv.org/abs/1507.04544

    Arguments:
        posterior: A posterior.
        n: The number of draws.
    """
    data = posterior.to_arviz(n)
    if "log_likelihood" not in list(data.groups() if callable(data.groups) else data.children):
        return None
    parts = [torch.as_tensor(v.values).double() for v in data["log_likelihood"].data_vars.values()]
    each = torch.cat([part.flatten(2) if part.dim() > 2 else part[..., None] for part in parts], 2)
    each = each[..., (each != 0).any(0).any(0)]  # those that a mask hides are all zero
    found = _by_arviz(each)
    pointwise = found.loo_i if hasattr(found, "loo_i") else found.elpd_i
    wild = int((torch.as_tensor(found.pareto_k.values) > WILD).sum())
    return Loo(torch.as_tensor(pointwise.values).double(), wild)


def _by_arviz(each: Tensor) -> Any:
    """What ArviZ says of log densities of shape ``(chains, draws, observations)``."""
    import arviz

    groups: dict[str, Any] = {"log_likelihood": {"y": each.numpy()}}
    groups["posterior"] = {"total": each.sum(-1).numpy()}
    old = "posterior" in inspect.signature(arviz.from_dict).parameters
    data = arviz.from_dict(**groups) if old else arviz.from_dict(groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wild weights, which are counted
        return arviz.loo(data, pointwise=True)
