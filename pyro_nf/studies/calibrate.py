"""Fits to data that the model makes, and where their true values lie among the draws."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf import fitting
from pyro_nf.checks import runnable, whole
from pyro_nf.model import Values, read
from pyro_nf.posterior import Posterior
from pyro_nf.randomness import seeded
from pyro_nf.studies.calibration import DRAWS, LIKELIHOOD, Calibration
from pyro_nf.studies.simulation import Simulation

__all__ = ["calibrate"]

FEWEST = 20  # simulations, of which the ranks say anything
FAILURES = (ArithmeticError, RuntimeError, ValueError)  # of one simulation, which are counted


class Drawn(Protocol):
    """What a fit gives."""

    def draws(self, n: int) -> Values:
        """Draws of each latent site, of shape ``(n, *shape)``."""
        ...


Fit = Callable[..., Drawn]


def calibrate(
    model: Callable[..., Any],
    *args: Any,
    simulations: int = 100,
    fit: Fit | None = None,
    posterior: Posterior | None = None,
    seed: int | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Calibration:
    """Simulation-based calibration: whether fits of this model are right, on data that it makes.

    True values are drawn from the prior, data of the observed sites from the model, and the model
    is fitted to them. The true values are draws of the posterior then, so that their ranks among
    the draws of right fits are uniform, and so is that of the log likelihood, by which a fit that
    has not seen its data is found. All that the model is given besides stays as it is. A second fit
    of the same model finds its compiled step.

    With a posterior the true values are its draws, and each fit is to the model's own data and
    those that are drawn, as further observations of the same sites. That says whether fits are
    right where the posterior is, also of models whose prior is improper, or makes data like none
    that anyone has seen.

    A fit that fails is counted; what it would have said is missing from the ranks, so that they are
    not uniform where many fail. Ctrl-C ends it, and what there is is returned, if it is of 20
    simulations or more.

    Arguments:
        model: A Pyro model without parameters of its own.
        args: What it takes.
        simulations: The number of fits, at least 20. The shift of one number, in standard
            deviations, is known to 1 / sqrt(simulations).
        fit: What is called with a model and `args`, and gives something with ``draws(n)``; by
            default :func:`pyro_nf.fit`. Type ``functools.partial(pyro_nf.fit, steps=400)`` for its
            options, and see the example for a guide; one that reads the data from its arguments
            would see the old ones.
        posterior: A posterior of this model and these arguments, to look where it is.
        seed: As for :func:`pyro_nf.fit`.
        progress: Whether to show a progress bar.
        kwargs: What the model takes.

    Returns:
        The ranks, a verdict, and a table; to be printed.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts,
        Betancourt, Simpson, Vehtari and Gelman, 2018) https://arxiv.org/abs/1804.06788
        Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test
        Quantities Shapes Sensitivity (Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman and
        Vehtari, 2023) https://arxiv.org/abs/2211.02383
        Posterior SBC: Simulation-Based Calibration Checking Conditional on Data (Säilynoja,
        Schmitt, Bürkner and Vehtari, 2025) https://arxiv.org/abs/2502.03279

    Example:
        >>> import pyro_nf
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
        >>> def few_steps(model, *args):  # of a guide that is not the posterior
        ...     return pyro_nf.fit(
        ...         model, *args, guide=AutoNormal(model), steps=5, refine=False, progress=False
        ...     )
        >>> found = pyro_nf.calibrate(
        ...     eight_schools, *EIGHT_SCHOOLS.data, simulations=20, fit=few_steps, progress=False
        ... )
        >>> found.ranks["z"].shape
        torch.Size([20, 8])
    """
    runnable("model", model)
    whole("the number of simulations", simulations, FEWEST)
    fitted = partial(fitting.fit, progress=False) if fit is None else fit
    args, kwargs = read(model, args, kwargs)
    ranks: list[Values] = []
    failed: list[str] = []
    warned: list[str] = []
    with seeded(seed), tqdm(total=simulations, desc="calibrating", disable=not progress) as bar:
        true = None if posterior is None else posterior.draws(simulations)
        simulation = Simulation(model, args, kwargs, true)
        for index in range(simulations):
            with _apart(warned):
                try:
                    ranks.append(_ranks(simulation, index, fitted))
                except FAILURES as error:
                    failed.append(f"{type(error).__name__}: {error}")
                    last = error
                except KeyboardInterrupt:
                    if len(ranks) < FEWEST:
                        raise
                    break
            bar.update()
    if not ranks:
        raise last
    names = ranks[0]
    return Calibration(
        {name: torch.stack([rank[name] for rank in ranks]) for name in names},
        DRAWS,
        tuple(failed),
        tuple(warned),
    )


def _ranks(simulation: Simulation, index: int, fit: Fit) -> Values:
    """The ranks of one simulation's true values among the draws of a fit to its data."""
    true, data = simulation(index)
    fitted = fit(simulation.model_of(data), *simulation.args, **simulation.kwargs)
    if getattr(fitted, "ended", "").startswith("interrupted"):  # by Ctrl-C, which fit has caught
        raise KeyboardInterrupt
    draws = fitted.draws(DRAWS)
    true = {name: value for name, value in true.items() if name in draws}
    ranks = {name: _rank(value, draws[name]) for name, value in true.items()}
    both = {name: torch.cat([true[name].unsqueeze(0), draws[name]]) for name in true}
    likely = simulation.log_likelihood(both, data)
    return ranks | {LIKELIHOOD: _rank(likely[0], likely[1:])}


def _rank(true: Tensor, draws: Tensor) -> Tensor:
    """How many of n draws are below a value; those that are equal to it are so at random."""
    if not bool(draws.isfinite().logical_or(draws == -torch.inf).all()):
        raise ValueError("the draws of the fit are not all finite")
    below, equal = (draws < true).sum(0), (draws == true).sum(0)
    return below + (torch.rand(equal.shape, device=equal.device) * (equal + 1)).long()


@contextmanager
def _apart(warned: list[str]) -> Iterator[None]:
    """Keep what is left in Pyro's parameter store to one fit, and its first warning in words."""
    store = pyro.get_param_store()
    state = {key: dict(value) for key, value in store.get_state().items()}
    with store.scope(state), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    if caught:
        warned.append(str(caught[0].message))
