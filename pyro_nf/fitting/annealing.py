"""Annealing: an objective that is easier at first, through a weight that rises to one."""

from collections.abc import Callable
from typing import Any, Literal

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["Anneal", "annealed", "weight_at"]

Anneal = Literal["energy", "kl"]


def weight_at(step: int, steps: int, first: float) -> float:
    r"""The weight :math:`\beta_t = \min(1, \beta_0 + t / T)` at step t of T."""
    return min(1.0, first + step / steps) if steps else 1.0


def annealed(
    model: Callable[..., Any], guide: Callable[..., Any], what: Anneal | None, weight: Tensor
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    r"""Model and guide whose negative ELBO is annealed by a weight :math:`\beta`.

    ``"energy"`` weights the model, as in the paper; ``"kl"`` all but the likelihood:

    .. math::
        E_q[\log q(z) - \beta \log p(x, z)], \qquad
        E_q[\beta (\log q(z) - \log p(z)) - \log p(x \mid z)]

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015), equation 20
        https://arxiv.org/abs/1505.05770

        Ladder Variational Autoencoders (Sonderby et al., 2016), for the warm-up of the KL
        https://arxiv.org/abs/1602.02282

    Arguments:
        model: A Pyro model.
        guide: A guide.
        what: What is weighted; None for nothing.
        weight: A scalar, which is read at each run.
    """
    if what is None:
        return model, guide
    if what == "energy":
        return _Weighted(weight, observed=True)(model), guide
    latent = _Weighted(weight, observed=False)
    return latent(model), latent(guide)


class _Weighted(Messenger):
    """Weights the log densities of sites, of observed ones as well or not."""

    def __init__(self, weight: Tensor, observed: bool) -> None:
        super().__init__()
        self.weight, self.observed = weight, observed

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) and (self.observed or not msg["is_observed"]):
            msg["scale"] = msg["scale"] * self.weight
