"""fit: from a model and data to a posterior."""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pyro.infer import ELBO, RenyiELBO, Trace_ELBO
from pyro.infer.autoguide.guides import AutoContinuous
from torch import nn
from tqdm.auto import tqdm

from pyro_nf.files import fingerprint, read
from pyro_nf.fitting.annealing import Anneal
from pyro_nf.fitting.batches import Batches, refuse_local_latents
from pyro_nf.fitting.chain_pool import pool_of
from pyro_nf.fitting.run import FitError, Run
from pyro_nf.fitting.step import Step
from pyro_nf.flows import FlowSpec
from pyro_nf.guides import AmortizedFlowGuide, AutoFlowGuide, Gradient, name_apart
from pyro_nf.model import NUMERICS, Target, patiently, plate_nesting, takes_particles, work
from pyro_nf.posterior import Posterior
from pyro_nf.randomness import kept_random_state, seeded

__all__ = ["FitError", "fit"]

DENSE = 500  # dimensions up to which a layer of D^2 parameters costs little
PARTICLES = 64
FEW_PARTICLES = 16  # for models in which a particle costs so much that more would cost more time
CHEAP = 20_000  # numbers that a log density may compute for all its particles to be taken
SINGLE_PARTICLES = 4  # for models that cannot take a plate of particles: each costs a run
LR = 1e-2
ANNEAL_STEPS = 10_000  # as in the paper
VERSION = 8

Compile = Literal["auto", "quick", "full", False]


def fit(
    model: Callable[..., Any],
    *args: Any,
    guide: Callable[..., Any] | None = None,
    flow: FlowSpec | None = None,
    batches: Any = None,
    batch_size: int | None = None,
    elbo: ELBO | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    particles: int | None = None,
    lr: float = LR,
    anneal: Anneal | None = None,
    anneal_steps: int = ANNEAL_STEPS,
    seed: int | None = None,
    compile: Compile = "auto",  # the word that torch uses
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> Posterior:
    """Fit a posterior to a model by stochastic variational inference.

    A flow guide starts from a normal approximation, for which the normal latents of a hierarchy are
    freed from the ties to their parents where that makes it better; then Adam runs in up to three
    rounds, of 400, 1,600 and 2,000 steps, in each of which its rate falls to zero. The run is over
    where a round has left nothing to win: the importance weights of the guide's draws are nearly
    equal, or, where no draws of the posterior can be made, the evidence lower bound is no better
    than a round before. The result is the best of the last iterates' average and the states on the
    way. With `steps` there is one round.

    In the first two the draws that train are a little wider than the guide's, so that its tails are
    trained too; the losses are those of its own draws all the same.

    In the last a guide learns besides from draws of the posterior, since its own do
    not suffice: short Markov chains run in the flow's coordinates, and the guide is trained where
    they went, too; on the way they go on in the coordinates that it has learned. If climbs from all
    around have found several modes before the fit, the guide is trained on draws of these alone.

    A step whose loss or gradient is not finite, or in which the model's numerics fail, is skipped.
    A run of which most steps fail, or whose loss rises far above its best, returns to its best
    state, at a smaller rate.
    Ctrl-C ends the fit early, and returns what it has reached.

    Arguments:
        model: A Pyro model.
        args: What the model takes; with batches, after the tensors of a batch.
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
        epochs: The number of steps in passes over the batches.
        particles: The number of draws a step; by default 64, down to 16 for models of which a
            log density takes more than 20,000 numbers on its way, or 4 where the model cannot be
            vectorized; 1 with an amortized guide.
        lr: The learning rate of Adam.
        anneal: ``"energy"`` to weight the model's log density by a number that rises to one, as in
            the paper, ``"kl"`` to weight all but the likelihood, a warm-up of the KL.
        anneal_steps: The number of steps in which it rises.
        seed: With a seed, the result is the same each time, and the caller's random state is
            left alone.
        compile: ``"quick"`` runs a traced step, ready in seconds; ``"full"`` compiles it, which
            takes longer and runs an order faster; ``"auto"`` goes from one to the other when the
            rest of the run repays it; False runs the model at each step.
        progress: Whether to show a progress bar.
        checkpoint: A file to which the fit is saved every few seconds. The same call with the
            same file goes on where it was.
        kwargs: What the model takes.

    Returns:
        The posterior, with the losses on the way and a message on how the fit ended.

    Example:
        >>> from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
        >>> posterior = fit(eight_schools, *EIGHT_SCHOOLS.data, steps=20, progress=False)
        >>> posterior.draws(5)["z"].shape
        torch.Size([5, 8])
    """
    counts = {"steps": steps, "epochs": epochs, "particles": particles}
    _check(**counts, anneal_steps=anneal_steps, lr=lr, compile=compile, anneal=anneal)
    if guide is not None and flow is not None:
        raise ValueError("give either a guide or a flow, not both; a guide has its own")
    source, steps = _source(batches, batch_size, args, steps, epochs)
    if anneal is not None and steps is not None and anneal_steps >= steps:
        raise ValueError(
            f"anneal_steps={anneal_steps} leaves none of the {steps} steps for the posterior "
            f"itself; type anneal_steps={max(1, steps // 5)}"
        )
    data = [args if source is None else (source.tensors, source.rest), kwargs]
    args = args if source is None else source.first()
    with seeded(seed):
        if guide is None:
            gradient: Gradient = "total" if isinstance(elbo, RenyiELBO) else "path"
            if flow is None:
                probe = AutoFlowGuide(model, "diag", name="_pyro_nf_probe").setup(*args, **kwargs)
                flow = default_flow(probe.latent_dim)
            guide = AutoFlowGuide(model, flow, gradient=gradient)
        if isinstance(elbo, RenyiELBO) and getattr(guide, "gradient", "total") == "path":
            raise ValueError(
                "RenyiELBO is not linear in the guide's log density, and its path gradient is "
                'biased; type AutoFlowGuide(model, flow, gradient="total")'
            )
        saved = None
        if checkpoint is not None and os.path.exists(checkpoint):
            saved = read(checkpoint, "checkpoint")
        new = isinstance(guide, AutoFlowGuide) and guide.prototype_trace is None
        name_apart(guide)
        target, effort = None, 0.0
        if elbo is None and isinstance(guide, AutoContinuous):
            guide(*args, **kwargs)  # set up
            target = Target.of(guide, args, kwargs)
            effort = work(target, target.start.expand(2, -1)) if target.vectorized else 0.0
        if isinstance(guide, AutoFlowGuide) and new and saved is None:
            with tqdm(desc="warm start", disable=not progress, leave=False):
                guide.warm_start(*args, **kwargs) if target is None else guide.whiten(target)
        pool = None
        if elbo is None:
            elbo = _default_elbo(model, guide, target, effort, args, kwargs, particles)
            if target and steps is None and source is None and isinstance(guide, AutoFlowGuide):
                pool = pool_of(guide, target, elbo.num_particles, cheap=effort <= CHEAP)
        if pool is not None and new and saved is None:
            with tqdm(desc="exploring", disable=not progress, leave=False):
                pool.explore()
        step = patiently(lambda: Step(elbo, model, guide, args, kwargs, anneal))
        if source is not None:
            refuse_local_latents(model, guide, args, kwargs)
        modules = [part for part in (guide, model) if isinstance(part, nn.Module)]
        facts: dict[str, Any] = {"steps": steps, "lr": lr, "elbo": type(elbo).__name__}
        facts |= {"particles": elbo.num_particles, "parameters": _shapes(step, guide)}
        warmup = 0 if anneal is None else anneal_steps
        facts |= {"anneal": anneal, "warmup": warmup, "batch_size": batch_size}
        identity = fingerprint(data, version=VERSION, **facts)
        saving: dict[str, Any] = {"path": checkpoint, "identity": identity, "progress": progress}
        run = Run(step, lr, steps, modules, pool=pool, batches=source, warmup=warmup, **saving)
        if saved is not None:
            run.restore(saved)
        _tell_silent(step)
        run.go(compile)
    posterior = Posterior(model, guide, *args, **kwargs)
    posterior.losses, posterior.message = run.history(), run.message
    return posterior


def default_flow(dim: int) -> str:
    """The formula that `fit` uses in this dimension; a formula, for files to keep."""
    if dim == 1:
        return "planar*8 + tails"  # a coupling has nothing to couple
    # With tails at the end alone Student-t locations have a k-hat above a half now and then.
    return "affine_coupling*6 + tails" + (" + tril + tails" if dim <= DENSE else "")


def _check(**options: Any) -> None:
    for name in ("steps", "epochs", "particles", "anneal_steps"):
        value = options[name]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    lr, tier, anneal = options["lr"], options["compile"], options["anneal"]
    if anneal not in (None, "energy", "kl"):
        raise ValueError(f'anneal must be "energy", "kl" or None, got {anneal!r}')
    if not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise ValueError(f"lr must be a positive number, got {lr!r}")
    if tier not in ("auto", "quick", "full", False):
        raise ValueError(f'compile must be "auto", "quick", "full" or False, got {tier!r}')


def _source(
    batches: Any,
    batch_size: int | None,
    rest: Sequence[Any],
    steps: int | None,
    epochs: int | None,
) -> tuple[Batches | None, int | None]:
    """The batches, if there are any, and the number of steps, if it is given."""
    if batches is None:
        for name, value in (("batch_size", batch_size), ("epochs", epochs)):
            if value is not None:
                raise ValueError(f"{name}={value!r} is for batches=..., and there are none")
        return None, steps
    source = Batches(batches, batch_size, rest)
    if epochs is None:
        return source, steps
    if steps is not None:
        raise ValueError(f"give either steps={steps} or epochs={epochs}, not both")
    if source.length is None:
        raise ValueError(
            "batches does not tell its length, so that epochs cannot be counted; give steps"
        )
    return source, epochs * source.length


def _default_elbo(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    target: Target | None,
    effort: float,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    particles: int | None,
) -> ELBO:
    """Trace_ELBO, its particles vectorized where the model's density stays the same by it."""
    if target is not None:
        nesting = plate_nesting(model, guide, args, kwargs)
        vectorize = target.vectorized and takes_particles(model, guide, nesting, args, kwargs)
    else:
        nesting = plate_nesting(model, guide, args, kwargs)
        parts = guide.modules() if isinstance(guide, nn.Module) else ()
        if any(isinstance(part, AmortizedFlowGuide) for part in parts):
            particles = particles or 1  # there is one for each row
        vectorize = takes_particles(model, guide, nesting, args, kwargs)
    affordable = max(FEW_PARTICLES, min(PARTICLES, int(PARTICLES * CHEAP / max(effort, 1))))
    count = particles or (
        affordable if vectorize or (target and target.vectorized) else SINGLE_PARTICLES
    )
    # With one particle Pyro adds no plate, and counts none.
    return Trace_ELBO(num_particles=count, vectorize_particles=vectorize, max_plate_nesting=nesting)


def _shapes(step: Step, guide: Callable[..., Any]) -> dict[str, list[int]]:
    """The parameters' shapes by name, without the guide's own, which counts the guides."""
    own = getattr(guide, "_pyro_name", "")
    return {
        name.removeprefix(own): list(leaf.shape)
        for name, leaf in zip(step.names, step.leaves, strict=True)
    }


def _tell_silent(step: Step) -> None:
    """Name the parameters that receive no gradient."""
    with kept_random_state():
        try:
            gradients = step.gradients()[1]
        except NUMERICS:  # the run meets it, and counts it
            return
    silent = [name for name, part in zip(step.names, gradients, strict=True) if part is None]
    if silent:
        warnings.warn(
            f"no gradient reaches {', '.join(silent)}: the loss does not depend on them, or the "
            "model detaches them",
            stacklevel=3,
        )
