"""fit: from a model and data to a posterior."""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO

from pyro_nf.fitting import recipe
from pyro_nf.fitting.annealing import Anneal
from pyro_nf.fitting.bridging import bridge
from pyro_nf.fitting.checkpoint import Checkpoint
from pyro_nf.fitting.fit_error import FitError
from pyro_nf.fitting.options import Options, refuse_own_names
from pyro_nf.fitting.prepare import Setup, prepare
from pyro_nf.fitting.run import Run
from pyro_nf.fitting.turns import learner
from pyro_nf.fitting.when_to_compile import Compile
from pyro_nf.flows import FlowSpec
from pyro_nf.model import NoStartError, Reading
from pyro_nf.posterior import (
    DRAWS,
    Corrected,
    Posterior,
    Refinement,
    affordable,
    corrected,
    diagnose,
    has_weights,
    judged,
    kept_draws,
    label_by,
    still,
)
from pyro_nf.randomness import seeded

__all__ = ["fit"]


def fit(
    model: Callable[..., Any],
    *args: Any,
    guide: Callable[..., Any] | None = None,
    flow: FlowSpec | None = None,
    batches: Any = None,
    batch_size: int | None = None,
    elbo: ELBO | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    epochs: int | None = None,
    particles: int | None = None,
    lr: float = recipe.RECIPE.lr,
    anneal: Anneal | None = None,
    anneal_steps: int = recipe.RECIPE.anneal_steps,
    seed: int | None = None,
    compile: Compile = "auto",  # the word that torch uses
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    refine: bool | None = None,
    **kwargs: Any,
) -> Posterior:
    """Fit a posterior to a model by stochastic variational inference.

    A flow guide starts from a normal approximation, for which the normal latents of a hierarchy are
    freed from the ties to their parents where that makes it better; then Adam runs for rounds of
    50 and 200 steps, or `steps`, in each of which its rate falls to zero, until the losses say
    that importance weights suffice. If those of the guide's draws are nearly equal then, the guide
    is the posterior. If they are good, draws that they have corrected are kept, as by
    :meth:`pyro_nf.Posterior.resample`. If not, Markov chains go on from its draws until they are
    the posterior's, as by :meth:`pyro_nf.Posterior.refine`; where they are slow the guide learns
    from them, and they go on in its new coordinates.

    Where no chains can go on, or shall, up to three rounds follow one another, of 400, 1,600 and
    2,000 steps, and so they do for another guide than a flow, and for a model with parameters of
    its own, before any chains. They are over where one has left nothing to win: the weights are
    nearly equal, or, where no draws of the posterior can be made, the evidence lower bound is no
    better than a round before. In the last a flow guide learns besides from draws of the posterior:
    short Markov chains run in the flow's coordinates, and the guide is trained where they went,
    too; on the way they go on in the coordinates that it has learned.

    The draws that train are a little wider than the guide's, so that its tails are trained too; the
    losses are those of its own draws all the same. The result is the best of the last iterates'
    average and the states on the way. If climbs from all around have found several modes before the
    fit, the guide is trained on draws of these alone.

    A guide of leapfrog steps, ``AutoFlowGuide(model, hamiltonian=K)``, is trained as if it had
    none; then these are, and the flow beside them at a tenth of the rate, in up to 4 rounds of 200
    steps of Adam while the bound rises, or one of no more than `steps`.

    Discrete latents that can be enumerated are summed out, also where a guide that is given lacks
    them; the posterior's draws have them, given the others.

    Parameters of the model, ``pyro.param`` or those of a module, are trained beside the guide. If
    they are up to 100 numbers, they start where the evidence of a normal approximation is largest,
    and the last round is repeated, up to 4 times, while they still move. With a guide of yours they
    wait there until it comes no nearer, or for half of `steps`. If they still move at the end, or
    the evidence is larger elsewhere, a warning names them, and the posterior is not called good.

    A step whose loss or gradient is not finite, or in which the model's numerics fail, is skipped.
    A run of which most steps fail, or whose loss rises far above its best, returns to its best
    state, at a smaller rate.
    Ctrl-C ends the fit early, and returns what it has reached.

    Arguments:
        model: A Pyro model.
        args: What the model takes; with batches, after the tensors of a batch. Arrays, columns,
            data frames and lists of numbers are tensors to the model, of its latents' dtype; see
            :mod:`pyro_nf.model.reading`.
        guide: Any Pyro guide; by default ``AutoFlowGuide(model, flow)``.
        flow: What :func:`pyro_nf.make_flow` takes; by default
            ``"affine_coupling*6 + tails + tril + tails"``, above 500 dimensions
            ``"affine_coupling*6 + tails"``, and ``"planar*8 + tails"`` in one.
        batches: Data of which each step sees a batch: a tensor, or a tuple of them, cut into
            batches of `batch_size` rows, or a ``DataLoader``. The model is called with a batch's
            tensors and must scale its plate, ``pyro.plate("data", size, subsample_size=len(x))``,
            where it has global parameters or latents.
        batch_size: The rows of a batch, where `batches` is tensors.
        elbo: One of Pyro's ELBOs; by default ``Trace_ELBO`` with vectorized particles.
        steps: The number of steps; by default as many as are needed.
        seconds: A limit on the time: the round that it meets falls short, its rate goes to zero all
            the same, and the message says so. What has begun is ended (the warm start, chains, a
            step), and at least one step is taken. With a checkpoint the next call goes on.
        epochs: The number of steps in passes over the batches.
        particles: The number of draws a step; by default 64, down to 16 for models of which a
            log density takes more than 20,000 numbers on its way, or 4 where the model cannot be
            vectorized; 1 with an amortized guide.
        lr: The learning rate of Adam, by default 0.01.
        anneal: ``"energy"`` to weight the model's log density by a number that rises to one, as in
            the paper, ``"kl"`` to weight all but the likelihood, a warm-up of the KL.
        anneal_steps: The number of steps in which it rises, by default 10,000.
        seed: With a seed, the result is the same each time, and the caller's random state is
            left alone.
        compile: ``"quick"`` runs a traced step, ready in seconds; ``"full"`` compiles it, which
            takes longer and runs an order faster; ``"auto"`` goes from one to the other when the
            rest of the run repays it; False runs the model at each step. What is compiled is
            kept: a later fit of an equal graph, as of the same model to other data of the same
            shapes, finds it ready, and comes to what it would come to without.
        progress: Whether to show a progress bar.
        checkpoint: A file to which the fit is saved every few seconds. The same call with the
            same file goes on where it was.
        refine: Whether Markov chains go on from the guide's draws; by default where its weights
            are not good enough to correct them, and chains can: with the default ELBO, all of the
            data, a guide that packs its latents into one vector and a model that runs at many
            draws at once. With False the draws are the guide's.
        kwargs: What the model takes.

    Returns:
        The posterior, with the losses on the way and a message on how the fit ended.

    Example:
        >>> from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
        >>> posterior = fit(eight_schools, *EIGHT_SCHOOLS.data, steps=20, progress=False)
        >>> posterior.draws(5)["z"].shape
        torch.Size([5, 8])
    """
    asked, defaults = locals(), fit.__kwdefaults__ or {}
    given = [name for name, default in defaults.items() if asked[name] is not default]
    options = Options.checked(
        args,
        batches=batches,
        batch_size=batch_size,
        steps=steps,
        seconds=seconds,
        epochs=epochs,
        particles=particles,
        lr=lr,
        anneal=anneal,
        anneal_steps=anneal_steps,
        compile=compile,
        progress=progress,
        checkpoint=checkpoint,
        refine=refine,
    )
    with seeded(seed):
        first = args if options.source is None else options.source.first()
        refuse_own_names(model, first, defaults, given)
        reading, told = Reading.of(model, first, kwargs), (first, kwargs)
        first, kwargs = reading(first, kwargs)
        if options.source is not None:
            options.source.use(reading)
        try:
            setup = prepare(model, first, kwargs, guide, flow, elbo, options, recipe.RECIPE)
        except NoStartError as error:
            raise FitError(str(error)) from error
        run = Run(setup, Checkpoint(checkpoint, setup.identity))
        if silent := setup.step.silent():
            warnings.warn(
                f"no gradient reaches {', '.join(silent)}: the loss does not depend on them, or "
                "the model detaches them",
                stacklevel=2,
            )
        run.go(compile)
        if bridge(setup, run.state, compile is not False):
            run.save()
        posterior = _ended(Posterior(model, setup.guide, *first, **kwargs), run)
        label_by(posterior, *told)
        if refine is not False:
            posterior = _refined(posterior, run, compile)
        return _judged(posterior, run.setup)


def _ended(posterior: Posterior, run: Run) -> Posterior:
    """The posterior with what its run tells of it."""
    posterior.losses = torch.tensor(run.losses, dtype=torch.float64)
    posterior.ended, posterior.moving = run.state.message, tuple(run.state.moving)
    if posterior.moving:
        warnings.warn(still(posterior.moving), stacklevel=3)
    return posterior


def _refined(posterior: Posterior, run: Run, compile: Compile) -> Posterior:
    """The posterior with draws that are better than its guide's, where these can be, and can be had
    in the time that is left."""
    before = kept_draws(run.state.refinement)
    if isinstance(before, Refinement) or (before and run.options.refine is None):
        return _kept(posterior, before)
    left, obstacle = run.deadline.left, run.setup.obstacle
    if not obstacle and (not run.state.finished or left <= 0):
        obstacle = "the fit was cut short"
    if obstacle:
        posterior.ended += f"; not refined: {obstacle}"
        return posterior
    if run.options.refine is None:
        weighed = diagnose(posterior.log_weights(DRAWS))
        # Many draws tell of rarer ones among them; where these are wild, chains go on.
        wanted = weighed.corrects and weighed.ess < run.recipe.equal
        found = corrected(posterior, run.recipe.corrected, weighed.ess) if wanted else None
        if found is not None:
            run.save(found.content())
            posterior = _kept(posterior, found)
        if found is not None or weighed.verdict == "good":
            posterior.diagnosis = judged(weighed, found, posterior.moving)
            return posterior
        if run.go_on(compile):
            again = Posterior(posterior.model, posterior.guide, *posterior.args, **posterior.kwargs)
            return _refined(_ended(again, run), run, compile)
    seconds = None if left == math.inf else left
    learn = learner(run.step, run.chain_pool, run.options.lr, run.recipe, compile is not False)
    refined = posterior.refine(seconds=seconds, progress=run.options.progress, learn=learn)
    chains = refined.refinement
    if isinstance(chains, Refinement) and chains.arrived:
        run.save(chains.content())  # with what the guide has learned from its chains
    return refined


def _judged(posterior: Posterior, setup: Setup) -> Posterior:
    """The posterior with a verdict by what is at hand; a warning if it is poor."""
    if posterior.diagnosis is None and setup.watched and has_weights(posterior):
        posterior.diagnose(affordable(posterior, bool(setup.slow)), search=False)
    found, chains = posterior.diagnosis, posterior.refinement
    known = posterior.moving or (isinstance(chains, Refinement) and not chains.arrived)
    if found is not None and found.verdict == "poor" and not known:
        warnings.warn(f"the posterior is poor ({found.decided}): {found.message}", stacklevel=3)
    return posterior


def _kept(posterior: Posterior, found: Corrected | Refinement) -> Posterior:
    posterior.refinement = found
    return posterior
