"""Posterior: what a fit returns, and what can be done with any trained guide."""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_nf.checks import runnable, whole
from pyro_nf.files import write
from pyro_nf.guides import FlowGuide
from pyro_nf.model import read
from pyro_nf.posterior import plots
from pyro_nf.posterior.diagnosis import Diagnosis, check_count, checked, diagnose, voted
from pyro_nf.posterior.draws import Draws, rounding
from pyro_nf.posterior.evidence import log_evidence
from pyro_nf.posterior.export import to_arviz
from pyro_nf.posterior.finding import Case, unfinished
from pyro_nf.posterior.first_run import look
from pyro_nf.posterior.given_points import given_points
from pyro_nf.posterior.guide_density import as_batch, check_width, log_density
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.prediction import draws_for, predict
from pyro_nf.posterior.saving import pack, unpacked
from pyro_nf.posterior.summary import Summary, summarize
from pyro_nf.sampling import resampled

__all__ = ["Posterior"]

Model = Callable[..., Any]  # a Pyro model, or a guide

DRAWS = 4000
PROPOSALS = 4  # draws of the guide for each that is kept by resampling


class Posterior:
    r"""The posterior that a trained guide stands for.

    Any Pyro guide will do: an autoguide of Pyro or of this package, a list of them, a module or
    a function. Draws come from Pyro's global random state, and of the shape of their site: a
    site of shape ``(J,)`` gives ``(n, J)``. Nothing is left in Pyro's parameter store, and what
    is in it when the posterior is made is kept.

    Arguments:
        model: A Pyro model.
        guide: A guide that has been trained for it.
        args: What both take; arrays and data frames become tensors, as for :func:`~pyro_nf.fit`.
        kwargs: What both take.

    Attributes:
        model, guide, args, kwargs: What is given.
        losses: The loss of each training step, with shape ``(steps,)``; empty if unknown.
        message: How the training ended; empty if unknown.
        moving: The parameters of the model that it has left before they were at rest.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(data):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(data)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=data)
        >>> data = torch.tensor([0.5, 1.0])
        >>> guide = AutoNormal(model)
        >>> _ = guide(data)  # in earnest: trained
        >>> posterior = Posterior(model, guide, data)
        >>> posterior.draws(100)["mean"].shape
        torch.Size([100])
        >>> posterior.predict(100)["x"].shape
        torch.Size([100, 2])
    """

    def __init__(self, model: Model, guide: Model, /, *args: Any, **kwargs: Any) -> None:
        runnable("model", model)
        runnable("guide", guide, "model")
        args, kwargs = read(model, args, kwargs)
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.losses = torch.empty(0, dtype=torch.float64)
        self.message = ""
        self.moving: tuple[str, ...] = ()
        self._joint = Joint(model, guide, args, kwargs, look(model, guide, args, kwargs))
        self._draws = Draws(self._joint)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of each latent site."""
        return {name: latent.shape for name, latent in self._joint.latents.items()}

    @property
    def vectorized(self) -> bool | None:
        """Whether draws are made and scored together; None before the first."""
        return self._draws.vectorized

    # ---------------------------------------------------------------- draws and densities

    def draws(self, n: int) -> dict[str, Tensor]:
        """Draws of the guide, and of the discrete sites that it lacks, given its own.

        Arguments:
            n: How many.

        Returns:
            For each latent site a tensor of shape ``(n, *shape)``.
        """
        return self._draws(_count(n))

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
        values, log_p, log_q = self._draws.weighted(_count(n))
        if n > 1:
            check_width(self._joint, values)
        return log_p - log_q

    def diagnose(self, n: int = DRAWS, search: bool = True) -> Diagnosis:
        """Whether the posterior is any good: k-hat, effective sample size, ELBO, evidence.

        The importance weights of a guide's draws cannot tell of what lies out of their reach, so
        a guide that they find no great fault with is followed by a search for other modes, in up
        to 50 dimensions, for models that can be vectorized. In many dimensions they vary though
        each marginal is right, so where they find a flow guide usable but not good, short Markov
        chains start from its draws: if they change no mean and no width, it is good.

        Arguments:
            n: The number of draws to judge from.
            search: Whether to search, and to run chains, in seconds or a minute or two.
        """
        check_count(_count(n))
        values, log_p, log_q = self._draws.weighted(n)
        check_width(self._joint, values)
        weighed = diagnose(log_p - log_q, rounding(values, log_p), given_points(self._joint))
        if weighed.verdict != "good" and (again := self._draws.in_double(values)):
            weighed = diagnose(again[1] - again[2], rounding(*again[:2]), given_points(self._joint))
        weighed = voted(weighed, unfinished(self.moving))
        case = Case(self._joint, self._draws.model, values, log_p, log_q, weighed.verdict)
        return checked(weighed, case, search)

    def resample(self, n: int) -> dict[str, Tensor]:
        """Draws that are corrected by Pareto-smoothed importance resampling.

        Of at least 4 n draws of the guide n are kept, with chances in proportion to their
        smoothed importance weights; one with a large weight may come several times.

        Arguments:
            n: How many to keep.

        Returns:
            For each latent site a tensor of shape ``(n, *shape)``, in random order.
        """
        values, log_p, log_q = self._draws.weighted(max(PROPOSALS * _count(n), DRAWS))
        check_width(self._joint, values)
        verdict = diagnose(log_p - log_q)
        if verdict.verdict == "poor":
            warnings.warn(f"resampling cannot repair this: {verdict.message}", stacklevel=2)
        chosen = resampled(log_p - log_q, n)
        kept = {name: value[chosen.to(value.device)] for name, value in values.items()}
        return self._draws.completed(kept)

    # ---------------------------------------------------------------- predictions and tables

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
        values = draws_for(self._joint, _count(n), args, kwargs)
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
        return log_evidence(self._joint, _count(n), args, kwargs)

    def summary(self, n: int = DRAWS) -> Summary:
        """A table of mean, standard deviation and quantiles of n draws, a row for each number."""
        return summarize(self.draws(n))

    def to_arviz(self, n: int = 1000) -> Any:
        """Draws as ArviZ takes them, an ``InferenceData`` or, from ArviZ 1.0, a ``DataTree``.

        The groups are posterior (deterministic sites included), log_likelihood,
        posterior_predictive, observed_data, and sample_stats with the log densities ``lp`` of the
        model and ``lq`` of the guide. The draws are one chain, and independent: diagnostics of
        Markov chains do not apply to them, see :meth:`diagnose`. Where discrete sites are summed
        out, the log likelihood of one observation is not known, and that group is left out; so is
        an observed site without a sampler out of posterior_predictive, with a warning.

        Arguments:
            n: The number of draws.
        """
        values, log_p, log_q = self._draws.weighted(_count(n))
        return to_arviz(self._joint, self._draws.completed(values), log_p, log_q)

    def plot(self, kind: str = "pairs", **options: Any) -> Any:
        """A picture, as a matplotlib figure.

        Arguments:
            kind: ``"loss"``, the losses of the training; ``"pairs"``, a matrix of scatter plots,
                over those of ``reference`` draws if given; ``"khat"``, the largest importance
                weights; ``"density"``, of a posterior of two numbers.
            options: What the function of this name in :mod:`pyro_nf.posterior.plots` takes.
        """
        return plots.draw(self, kind, **options)

    # ---------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save guide, parameters and losses to a file, for :meth:`load`.

        It holds tensors and JSON, so ``torch.load(path, weights_only=True)`` reads it; the model
        and the data are not in it. A crash leaves the old file or the new one.
        """
        write(path, pack(self._joint, self.losses, self.message, self.moving))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Model,
        *args: Any,
        guide: Model | None = None,
        **kwargs: Any,
    ) -> "Posterior":
        """Load what :meth:`save` has saved, also in another process.

        Arguments:
            path: The file.
            model: The model that it was saved for.
            args: What the model takes.
            guide: A new guide like the one that was saved; an AutoFlowGuide made from a formula
                is made again by itself.
            kwargs: What the model takes.
        """
        with unpacked(path, model, guide, args, kwargs) as (guide, losses, message, moving):
            posterior = cls(model, guide, *args, **kwargs)
        posterior.losses, posterior.message, posterior.moving = losses, message, moving
        return posterior

    def __repr__(self) -> str:
        guide = getattr(self.guide, "__name__", type(self.guide).__name__)
        guide = repr(self.guide) if isinstance(self.guide, FlowGuide) else guide
        sites = ", ".join(f"{name} {tuple(shape)}" for name, shape in self.shapes.items())
        slow = "" if self.vectorized is not False else "; runs one draw at a time"
        return f"Posterior({guide}; {sites}{slow})"


def _count(n: int) -> int:
    return whole("the number of draws", n)
