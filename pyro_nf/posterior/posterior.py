"""Posterior: what a fit returns, and what can be done with any trained guide."""

import copy
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_nf.checks import positive, whole
from pyro_nf.files import write
from pyro_nf.posterior import plots
from pyro_nf.posterior.corrected import Corrected
from pyro_nf.posterior.diagnosis import Diagnosis
from pyro_nf.posterior.export import to_arviz
from pyro_nf.posterior.judging import judge
from pyro_nf.posterior.refinement import Learn, refined
from pyro_nf.posterior.report import page
from pyro_nf.posterior.saving import pack, unpacked
from pyro_nf.posterior.shown import as_html, as_line
from pyro_nf.posterior.summary import LEVELS, Columns, Summary, chosen, summarize
from pyro_nf.posterior.trained import DRAWS, Trained, count, has_weights
from pyro_nf.randomness import seeded

__all__ = ["Posterior"]

Model = Callable[..., Any]  # a Pyro model, or a guide


class Posterior(Trained):
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
        ended: How the training ended; empty if unknown.
        moving: The parameters of the model that it has left before they were at rest.
        refinement: What :meth:`refine` or :func:`~pyro_nf.fit` has made of the guide's draws; None
            for these alone.
        diagnosis: What was last found of it: by :func:`~pyro_nf.fit`, of the weights alone or of
            its chains, or by :meth:`diagnose`; None before.
        labels: What dimensions are called, and what is where along them; see :meth:`label`.
        message: All of this in a line: how the training ended, what was made of the draws, and the
            verdict.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
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

    def diagnose(self, n: int = DRAWS, search: bool = True) -> Diagnosis:
        """Whether the posterior is any good: k-hat, effective sample size, ELBO, evidence.

        The importance weights of a guide's draws cannot tell of what lies out of their reach, so
        a guide that they find no great fault with is followed by a search for other modes, in up
        to 50 dimensions, for models that can be vectorized. In many dimensions they vary though
        each marginal is right, so where they are unequal but could correct the draws, short Markov
        chains start from these, in the coordinates of a guide that packs its latents into one
        vector: if they change no mean and no width, and its divergence is within 0.01 nats a
        dimension, it is good. Refined draws are good where their chains have arrived, and have been
        at all summits that the search finds; those that weights have corrected are where these are
        still of use.

        Arguments:
            n: The number of draws to judge from.
            search: Whether to search, and to run chains, in seconds or a minute or two.
        """
        self.diagnosis = judge(self._draws, self.refinement, self.moving, count(n), search)
        return self.diagnosis

    def refine(
        self,
        n: int = 10_000,
        transitions: int = 1000,
        seconds: float | None = None,
        seed: int | None = None,
        progress: bool = True,
        learn: Learn | None = None,
    ) -> "Posterior":
        """The posterior itself, by Markov chains that go on where the guide ends.

        Many short chains start from draws of the guide and around them, and move in its
        coordinates, in which the posterior is nearly normal. They have arrived when nested R-hat of
        each unconstrained number, of its square and of the log density is below 1.01, each chain
        is worth four independent draws, and the halves of what is kept agree. If they have not by
        the limit, a warning names the numbers that have not. Ctrl-C ends them, and what there is is
        returned.

        Between modes that the guide covers they jump, by other draws of it. Its draws also go to
        the posterior in small steps, by weights that give the log evidence with its standard error,
        which :meth:`diagnose` then shows.

        Any autoguide of Pyro's will do that packs its latents into a vector and has a transform,
        such as ``AutoMultivariateNormal``.

        Arguments:
            n: The number of draws, at least; they depend on one another a little.
            transitions: The most that each chain makes, after the first few.
            seconds: A limit on the time, after these.
            seed: As for :func:`~pyro_nf.fit`.
            progress: Whether to show a progress bar.
            learn: What trains the guide on draws of chains that mix slowly, unconstrained vectors
                of shape ``(n, D)``, and says whether it has: they then go on in its new
                coordinates. ``fit(..., refine=True)`` has one.

        Returns:
            The same posterior with these draws, of which :meth:`draws`, :meth:`summary`,
            :meth:`predict`, :meth:`to_arviz`, :meth:`plot` and :meth:`diagnose` then speak.
            :meth:`log_prob` and :meth:`log_weights` stay the guide's.
        """
        limit = whole("the number of transitions", transitions)
        time = math.inf if seconds is None else positive("seconds", seconds)
        with seeded(seed):
            found = refined(self._joint, count(n), limit, time, progress, learn)
        if found is None:
            return self
        other = copy.copy(self)
        other.refinement, other.diagnosis = found, None
        if not found.arrived:
            outside = 2 if learn is None else 4  # of fit
            warnings.warn(f"{found}; see diagnose()", stacklevel=outside)
        return other

    # ---------------------------------------------------------------- tables and pictures

    def label(
        self,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> "Posterior":
        """The same posterior with names of what is where, as ArviZ has them.

        Plates are dimensions already, and what a pandas index or the coordinates of xarray tell of
        them is known from the arguments of the model, where it is beyond doubt.

        Arguments:
            coords: For each dimension the labels of its places.
            dims: For each site names of its dimensions, of plates and others.

        Example:
            >>> from pyro_nf import fit
            >>> from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
            >>> posterior = fit(
            ...     eight_schools, *EIGHT_SCHOOLS.data, steps=20, refine=False, progress=False
            ... )
            >>> posterior.label({"schools": list("ABCDEFGH")}).summary(sites=["z"]).rows[0]
            'z[A]'
        """
        other = copy.copy(self)
        shapes = {name: value.shape for name, value in self.observed.items()}
        other.labels = self.labels.joined(coords, dims, shapes | self.shapes)
        return other

    def summary(
        self,
        n: int = DRAWS,
        sites: Sequence[str] | None = None,
        levels: Sequence[float] = LEVELS,
        hdi: float | None = None,
    ) -> Summary:
        """A table of n draws, a row for each number: mean, standard deviation, quantiles, and the
        Monte Carlo error of the mean, by the means of chains where there are some.

        Arguments:
            n: The number of draws.
            sites: The sites to show; by default all.
            levels: Those of the quantiles.
            hdi: The share of the draws in the narrowest interval that has it; None for none.
        """
        chains, inflation = 1, 1.0
        if self.refinement is None:
            values = self.draws(n)
        else:
            kept, chains = self.refinement.spaced(count(n))
            values = self._draws.completed(kept)
        if isinstance(self.refinement, Corrected):
            inflation = self.refinement.inflation(len(next(iter(values.values()))))
        shown = chosen(values, sites)
        return summarize(shown, Columns(levels, hdi, chains, inflation), self.labels)

    def to_arviz(self, n: int = 1000) -> Any:
        """Draws as ArviZ takes them, an ``InferenceData`` or, from ArviZ 1.0, a ``DataTree``.

        The groups are posterior (deterministic sites included), log_likelihood,
        posterior_predictive, observed_data, and sample_stats with the log densities ``lp`` of the
        model and ``lq`` of the guide. A guide's draws are one chain, and independent: diagnostics
        of Markov chains do not apply to them, see :meth:`diagnose`. Of refined draws a superchain
        is a chain, for which they mean what they always do. Where discrete sites are summed
        out, the log likelihood of one observation is not known, and that group is left out; so is
        an observed site without a sampler out of posterior_predictive, with a warning.

        ``az.loo``, ``az.compare``, ``az.plot_ppc`` (``az.plot_ppc_dist`` from 1.0 on) and
        ``to_netcdf`` take them as they are.

        Arguments:
            n: The number of draws.
        """
        if self.refinement is None:
            chains, (values, log_p, log_q) = None, self._draws.weighted(count(n))
        else:
            values, chains = self.refinement.spaced(count(n))
            log_p, log_q = self._draws.scored(values)
        values = self._draws.completed(values)
        return to_arviz(self._joint, values, log_p, log_q, self.labels, chains)

    def plot(self, kind: str = "pairs", **options: Any) -> Any:
        """A picture, as a matplotlib figure.

        Arguments:
            kind: ``"loss"``, the losses of the training; ``"pairs"``, a matrix of scatter plots,
                over those of ``reference`` draws if given; ``"khat"``, the largest importance
                weights; ``"density"``, of a posterior of two numbers.
            options: What the function of this name in :mod:`pyro_nf.posterior.plots` takes.
        """
        return plots.draw(self, kind, **options)

    def report(self, path: str | os.PathLike[str], n: int = DRAWS) -> None:
        """Write a page about the posterior, for a colleague: verdict, table, pictures, predictive
        checks, and what was run. It is one file of HTML, and needs nothing from elsewhere.

        Its verdict is the last that was found; :meth:`diagnose` looks longer than a fit does.

        Arguments:
            path: The file.
            n: The number of draws.
        """
        weighted = None
        if has_weights(self):
            values, log_p, log_q = self._draws.weighted(count(n))
            weighted = self._draws.completed(values), log_p - log_q
        Path(path).write_text(page(self, count(n), weighted), encoding="utf-8")

    # ---------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save guide, parameters and losses to a file, for :meth:`load`.

        It holds tensors and JSON, so ``torch.load(path, weights_only=True)`` reads it; the model
        and the data are not in it. A crash leaves the old file or the new one.
        """
        found = self.refinement, self.diagnosis
        write(path, pack(self._joint, self.losses, self.ended, self.moving, *found, self.labels))

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
        with unpacked(path, model, guide, args, kwargs) as (guide, saved):
            posterior = cls(model, guide, *args, **kwargs)
        for name, value in saved.items():
            setattr(posterior, name, value)
        return posterior

    def __repr__(self) -> str:
        slow = self.vectorized is False
        return as_line(self.guide, self.shapes, slow, self.diagnosis)

    def _repr_html_(self) -> str:
        return as_html(self.guide, self.shapes, self.message, self.diagnosis)
