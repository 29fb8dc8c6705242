"""What `fit` was asked for, looked through before anything is run."""

import inspect
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyro_nf.checks import positive, runnable, whole
from pyro_nf.fitting.annealing import Anneal
from pyro_nf.fitting.batches import Batches
from pyro_nf.fitting.deadline import Deadline

__all__ = ["Options", "refuse_own_names"]


@dataclass(frozen=True)
class Options:
    """What :func:`~pyro_nf.fitting.fit` was asked for, beside model, guide and ELBO.

    Attributes:
        source: The batches; None for the model's arguments as they are.
        batch_size: The rows of a batch, where it is cut from tensors.
        steps: The number of steps; None for as many as are needed.
        deadline: When it is to end.
        particles: The number of draws a step; None for the default.
        lr: The learning rate.
        anneal: What is annealed, if anything is.
        warmup: The number of steps in which the weight of annealing rises.
        progress: Whether to show progress bars.
        refine: Whether chains go on; None where they can, and the guide has left anything to win.
        resumes: Whether there is a checkpoint to go on from.
    """

    source: Batches | None
    batch_size: int | None
    steps: int | None
    deadline: Deadline
    particles: int | None
    lr: float
    anneal: Anneal | None
    warmup: int
    progress: bool
    refine: bool | None
    resumes: bool

    @classmethod
    def checked(
        cls,
        rest: Sequence[Any],
        *,
        batches: Any,
        batch_size: int | None,
        steps: int | None,
        seconds: float | None,
        epochs: int | None,
        particles: int | None,
        lr: float,
        anneal: Anneal | None,
        anneal_steps: int,
        compile: Any,
        progress: bool,
        checkpoint: str | os.PathLike[str] | None,
        refine: bool | None,
    ) -> "Options":
        """Those of fit, each of which is refused here if it cannot be.

        Arguments:
            rest: What the model takes after the batch; all else is as for fit.
        """
        counts = {"steps": steps, "epochs": epochs, "particles": particles}
        for name, value in (counts | {"anneal_steps": anneal_steps}).items():
            if value is not None:
                whole(name, value)
        if anneal not in (None, "energy", "kl"):
            raise ValueError(f'anneal must be "energy", "kl" or None, got {anneal!r}')
        positive("lr", lr)
        positive("seconds", 1.0 if seconds is None else seconds)
        if compile not in ("auto", "quick", "full", False):
            raise ValueError(f'compile must be "auto", "quick", "full" or False, got {compile!r}')
        if refine and batches is not None:
            raise ValueError(
                "refine=True needs the density of all data at each step of its chains, and batches "
                "has some of them: pass the data as arguments of the model"
            )
        deadline = Deadline(seconds)
        source = _source(batches, batch_size, rest, epochs)
        steps = _steps(source, steps, epochs)
        if anneal is not None and steps is not None and anneal_steps >= steps:
            raise ValueError(
                f"anneal_steps={anneal_steps} leaves none of the {steps} steps for the posterior "
                f"itself; type anneal_steps={max(1, steps // 5)}"
            )
        warmup = 0 if anneal is None else anneal_steps
        resumes = checkpoint is not None and os.path.exists(checkpoint)
        return cls(
            source=source,
            batch_size=batch_size,
            steps=steps,
            deadline=deadline,
            particles=particles,
            lr=lr,
            anneal=anneal,
            warmup=warmup,
            progress=progress,
            refine=refine,
            resumes=resumes,
        )


def _source(
    batches: Any, batch_size: int | None, rest: Sequence[Any], epochs: int | None
) -> Batches | None:
    """The batches, if there are any."""
    if batches is not None:
        return Batches(batches, batch_size, rest)
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        if value is not None:
            raise ValueError(f"{name}={value!r} is for batches=..., and there are none")
    return None


def _steps(source: Batches | None, steps: int | None, epochs: int | None) -> int | None:
    """The number of steps, if it is given."""
    if source is None or epochs is None:
        return steps
    if steps is not None:
        raise ValueError(f"give either steps={steps} or epochs={epochs}, not both")
    if source.length is None:
        raise ValueError(
            "batches does not tell its length, so that epochs cannot be counted; give steps"
        )
    return epochs * source.length


def refuse_own_names(
    model: Callable[..., Any], args: Sequence[Any], takes: Collection[str], given: Collection[str]
) -> None:
    """Refuse a model's own keyword that has the name of one of fit's, and would not reach it.

    Arguments:
        model: A Pyro model.
        args: What it takes by position.
        takes: The names of fit's options.
        given: Those that this call has given.
    """
    runnable("model", model)
    run = model.forward if isinstance(model, nn.Module) else model
    try:
        signature = inspect.signature(run)
        filled = signature.bind_partial(*args).arguments
    except (TypeError, ValueError):  # it tells nothing of itself, or the call is wrong elsewhere
        return
    bound = getattr(run, "keywords", {})  # of a functools.partial
    for name, parameter in signature.parameters.items():
        if name not in takes or name in filled or name in bound:
            continue
        if name in given or parameter.default is parameter.empty:
            raise ValueError(
                f"the model has an argument {name!r}, and so has fit, which keeps it: type "
                f"fit(functools.partial(model, {name}=...), ...) to give it to the model"
            )
