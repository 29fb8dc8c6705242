"""A trained guide with its model and data: draws, corrected ones, and their densities."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_nf.checks import runnable, whole
from pyro_nf.guides import flow_parts
from pyro_nf.model import read
from pyro_nf.posterior.corrected import Corrected
from pyro_nf.posterior.diagnosis import MIN_DRAWS, Diagnosis, diagnose
from pyro_nf.posterior.draws import Draws
from pyro_nf.posterior.first_run import look
from pyro_nf.posterior.guide_density import as_batch, at_points, check_width, log_density
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.refinement import Refinement
from pyro_nf.sampling import resampled

__all__ = ["DRAWS", "Trained", "affordable", "corrected", "count", "has_weights"]

Model = Callable[..., Any]  # a Pyro model, or a guide

DRAWS = 4000
PROPOSALS = 4  # draws of the guide for each that is kept by resampling


class Trained:
    """What :class:`~pyro_nf.Posterior` knows of draws and densities.

    Arguments:
        model: A Pyro model.
        guide: A guide that has been trained for it.
        args: What both take.
        kwargs: What both take.
    """

    def __init__(self, model: Model, guide: Model, /, *args: Any, **kwargs: Any) -> None:
        runnable("model", model)
        runnable("guide", guide, "model")
        args, kwargs = read(model, args, kwargs)
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.losses = torch.empty(0, dtype=torch.float64)
        self.ended = ""
        self.moving: tuple[str, ...] = ()
        self.refinement: Corrected | Refinement | None = None
        self.diagnosis: Diagnosis | None = None
        self._joint = Joint(model, guide, args, kwargs, look(model, guide, args, kwargs))
        self._draws = Draws(self._joint)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of each latent site."""
        return {name: latent.shape for name, latent in self._joint.latents.items()}

    @property
    def observed(self) -> dict[str, Tensor]:
        """The observed values by site."""
        return dict(self._joint.observed)

    @property
    def vectorized(self) -> bool | None:
        """Whether draws are made and scored together; None before the first."""
        return self._draws.vectorized

    @property
    def message(self) -> str:
        """How the training ended, what was made of the draws, and the verdict, as far as known."""
        made = "" if self.refinement is None else str(self.refinement)
        verdict = "" if self.diagnosis is None else self.diagnosis.in_short
        return "; ".join(part for part in (self.ended, made, verdict) if part)

    # ---------------------------------------------------------------- draws and densities

    def draws(self, n: int) -> dict[str, Tensor]:
        """Draws of the posterior, and of the discrete sites that the guide lacks, given its own.

        They are new draws of the guide, or refined ones, of which some come again where there are
        fewer.

        Arguments:
            n: How many.

        Returns:
            For each latent site a tensor of shape ``(n, *shape)``.
        """
        if self.refinement is None:
            return self._draws(count(n))
        return self._draws.completed(self.refinement.some(count(n)))

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """The log density of the guide, which an approximation of the posterior's is.

        Arguments:
            values: For each latent site a value, or n of shape ``(n, *shape)``.

        Returns:
            A scalar, or n of shape ``(n,)``.
        """
        batch, single = as_batch(self._joint, values)
        with self._joint.scope():
            density = log_density(self._joint, batch)
        return density[0] if single else density

    def log_weights(self, n: int) -> Tensor:
        """The log importance weights of n new draws of the guide, ``log p(x, data) - log q(x)``.

        A latent site that the guide lacks is summed out if it is discrete and can be enumerated,
        and else drawn from its prior.

        Returns:
            With shape ``(n,)``, in double precision.
        """
        values, log_p, log_q = self._draws.weighted(count(n))
        if n > 1:
            check_width(self._joint, values)
        return log_p - log_q

    def resample(self, n: int) -> dict[str, Tensor]:
        """Draws that are corrected by Pareto-smoothed importance resampling.

        Of at least 4 n draws of the guide n are kept, with chances in proportion to their
        smoothed importance weights; one with a large weight may come several times. Refined draws
        are those of the posterior already.

        Arguments:
            n: How many to keep.

        Returns:
            For each latent site a tensor of shape ``(n, *shape)``, in random order.
        """
        if self.refinement is not None:
            return self.draws(n)
        values, log_p, log_q = self._draws.weighted(max(PROPOSALS * count(n), DRAWS))
        check_width(self._joint, values)
        verdict = diagnose(log_p - log_q)
        if verdict.verdict == "poor":
            warnings.warn(f"resampling cannot repair this: {verdict.message}", stacklevel=2)
        chosen = resampled(log_p - log_q, n)
        kept = {name: value[chosen.to(value.device)] for name, value in values.items()}
        return self._draws.completed(kept)


def has_weights(posterior: Trained) -> bool:
    """Whether draws of the guide have importance weights that tell of the posterior.

    Not those of a part of the data, of points, or of a posterior for each of many rows.
    """
    joint = posterior._joint
    if joint.partial or any(part.row_plates for part in flow_parts(joint.guide)):
        return False
    return not at_points(joint, posterior._draws(2))


def affordable(posterior: Trained, slow: bool) -> int:
    """How many draws a verdict is worth that nobody has asked for.

    Arguments:
        posterior: The guide, and what it approximates.
        slow: Whether each is a run of the model; else they are as many as it takes at once.
    """
    return MIN_DRAWS if slow else max(MIN_DRAWS, min(DRAWS, posterior._joint.chunk))


def corrected(posterior: Trained, n: int) -> Corrected | None:
    """Draws of a guide that their weights have corrected, to be kept; None if they cannot.

    Arguments:
        posterior: The guide, and what it approximates.
        n: How many to keep.
    """
    values, log_p, log_q = posterior._draws.weighted(PROPOSALS * count(n))
    weighed = diagnose(log_p - log_q)
    if not weighed.corrects:
        return None
    chosen = resampled(log_p - log_q, n)
    kept = {name: value[chosen.to(value.device)] for name, value in values.items()}
    return Corrected(kept, weighed.k_hat, weighed.ess)


def count(n: int) -> int:
    """A number of draws, if it is one."""
    return whole("the number of draws", n)
