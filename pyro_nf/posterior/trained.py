"""A trained guide with its model and data: draws, corrected ones, and their densities."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_nf.checks import runnable, whole
from pyro_nf.guides import flow_parts
from pyro_nf.model import read
from pyro_nf.posterior.corrected import PROPOSALS, Corrected, proposals
from pyro_nf.posterior.diagnosis import MIN_DRAWS, Diagnosis, diagnose
from pyro_nf.posterior.draws import Draws
from pyro_nf.posterior.evidence import log_evidence
from pyro_nf.posterior.first_run import look
from pyro_nf.posterior.found_labels import found
from pyro_nf.posterior.guide_density import as_batch, at_points, check_width, log_density
from pyro_nf.posterior.hand_over import initial_params
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.prediction import draws_for, predict
from pyro_nf.posterior.refinement import Refinement
from pyro_nf.sampling import resampled

__all__ = ["DRAWS", "Trained", "affordable", "corrected", "count", "has_weights", "label_by"]

Model = Callable[..., Any]  # a Pyro model, or a guide

DRAWS = 4000


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
        given = args, kwargs
        args, kwargs = read(model, args, kwargs)
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.losses = torch.empty(0, dtype=torch.float64)
        self.ended = ""
        self.moving: tuple[str, ...] = ()
        self.refinement: Corrected | Refinement | None = None
        self.diagnosis: Diagnosis | None = None
        self._joint = Joint(model, guide, args, kwargs, look(model, guide, args, kwargs))
        self._draws = Draws(self._joint)
        self.labels = found(self._joint, *given)

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

        Of a guide with auxiliary noise it is an estimate, with a warning: too low on average, and
        another at each call. The weights of its own draws need none.

        Arguments:
            values: For each latent site a value, or n of shape ``(n, *shape)``.

        Returns:
            A scalar, or n of shape ``(n,)``.
        """
        if not self._joint.exact:
            warnings.warn(
                "the density of a guide with auxiliary noise is estimated, too low on average and "
                "another at each call; log_weights(n) needs no such estimate",
                stacklevel=2,
            )
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

    # ---------------------------------------------------------------- other data, other samplers

    def predict(self, n: int, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws of the posterior predictive distribution.

        Observed sites are sampled, though the model may fix them; deterministic sites come with
        them, and latent ones that the guide lacks: discrete ones given the others and the data that
        is passed, the rest from their prior. On new data of another size the global latents are the
        guide's; a local one whose shape has changed is drawn from its prior, with a warning. An
        observed site whose distribution has no sampler is left out, with a warning.

        A ``ForecastingModel`` of ``pyro.contrib.forecast`` forecasts where its covariates are
        longer than its data: ``"forecast"`` is then what the model returns, the time after the
        data, and latents over time come with their past and their future.

        Arguments:
            n: The number of draws.
            args: What the model takes; by default what the posterior was made with.
            kwargs: What the model takes.

        Returns:
            For each of these sites a tensor of shape ``(n, *shape)``.
        """
        if not (args or kwargs):
            return predict(self._joint, n, self.draws(n), self.args, self.kwargs)
        args, kwargs = read(self.model, args, kwargs, self._joint.dtypes)
        if self.refinement is None:
            values = draws_for(self._joint, count(n), args, kwargs)
        else:
            values = self.refinement.some(count(n))
        return predict(self._joint, n, values, args, kwargs)

    def log_evidence(self, *args: Any, n: int = 1000, **kwargs: Any) -> Tensor:
        """The log evidence of each row, such as held-out ones, for an amortized guide.

        A discrete latent site of the rows that the guide lacks, a class label, is summed out.

        Arguments:
            args: What the model takes; tensors as long as the first are cut into as many rows as
                there is memory for.
            n: The number of draws for each row; the fewer, the lower the estimate.
            kwargs: What the model takes.

        Returns:
            With shape ``(rows,)``, in double precision; see :mod:`pyro_nf.posterior.evidence`.
        """
        return log_evidence(self._joint, count(n), args, kwargs)

    def initial_params(self, chains: int = 4) -> dict[str, Tensor]:
        """Where a sampler of Pyro's or NumPyro's may start its chains.

        ``MCMC(NUTS(model), initial_params=posterior.initial_params(4), num_chains=4, ...)`` in
        Pyro; in NumPyro the same values as arrays are what ``mcmc.run`` takes as ``init_params``.
        To sample in the coordinates of the flow, see ``NeuTraReparam(posterior.guide)``.

        Arguments:
            chains: The number of chains.

        Returns:
            For each latent site of the guide draws in unconstrained coordinates, of shape
            ``(chains, *shape)``, or ``shape`` for one chain, as these samplers want them.
        """
        free = initial_params(self._joint, self.draws(whole("the number of chains", chains)))
        return {name: value[0] for name, value in free.items()} if chains == 1 else free


def has_weights(posterior: Trained) -> bool:
    """Whether draws of the guide have importance weights that tell of the posterior.

    Not those of a part of the data, of points, or of a posterior for each of many rows.
    """
    joint = posterior._joint
    if joint.partial or any(part.row_plates for part in flow_parts(joint.guide)):
        return False
    return not at_points(joint, posterior._draws(2))


def label_by(posterior: Trained, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Let a posterior have the labels that arguments of its model tell, as the user gave them."""
    posterior.labels = found(posterior._joint, args, kwargs)


def affordable(posterior: Trained, slow: bool) -> int:
    """How many draws a verdict is worth that nobody has asked for.

    Arguments:
        posterior: The guide, and what it approximates.
        slow: Whether each is a run of the model; else they are as many as it takes at once.
    """
    return MIN_DRAWS if slow else max(MIN_DRAWS, min(DRAWS, posterior._joint.chunk))


def corrected(posterior: Trained, n: int, share: float) -> Corrected | None:
    """Draws of a guide that their weights have corrected, to be kept; None if they cannot.

    Arguments:
        posterior: The guide, and what it approximates.
        n: How many to keep.
        share: The effective share of its draws, as some have told.
    """
    values, log_p, log_q = posterior._draws.weighted(proposals(count(n), share))
    weighed = diagnose(log_p - log_q)
    if not weighed.corrects:
        return None
    chosen = resampled(log_p - log_q, n)
    kept = {name: value[chosen.to(value.device)] for name, value in values.items()}
    return Corrected(kept, weighed.k_hat, weighed.ess)


def count(n: int) -> int:
    """A number of draws, if it is one."""
    return whole("the number of draws", n)
