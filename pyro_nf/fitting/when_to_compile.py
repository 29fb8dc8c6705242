"""How fast a run steps: traced at once, compiled where what is left of the run repays it."""

import warnings
from typing import Any, Literal

from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.step import Step, Tier

__all__ = ["Compile", "begin", "upgrade"]

Compile = Literal["auto", "quick", "full", False]


def begin(step: Step, compile: Compile, bar: Any, slow: str = "") -> None:  # fit's word
    """Move a step to the tier in which its run begins, and say once what makes it slow.

    Arguments:
        step: The step.
        compile: What :func:`~pyro_nf.fitting.fit` takes.
        bar: A progress bar, which says so.
        slow: Why the model runs one draw at a time; empty if it does not.
    """
    words = [f"the model runs one draw at a time, which is slow: {slow}"] if slow else []
    tiers: dict[Compile, tuple[Tier, ...]] = {"full": ("full", "quick"), False: ()}
    for tier in tiers.get(compile, ("quick",)):
        bar.set_description("tracing" if tier == "quick" else "compiling")
        if step.compile(tier):
            break
    else:
        if compile is not False:
            words.append(f"the step cannot be compiled and runs eagerly: {step.reason}")
    bar.set_description("fitting")
    if words:
        # Past this function and Run.go and fit, to the line that called fit.
        warnings.warn("; besides, ".join(words), stacklevel=4)


def upgrade(step: Step, steps: int, seconds: float, recipe: Recipe, bar: Any) -> None:
    """Compile a traced step fully where the rest of its run repays it.

    Arguments:
        step: The step.
        steps: How many of them the rest of the run has.
        seconds: What each takes now.
        recipe: What compiling costs and saves.
        bar: A progress bar, which says so.
    """
    # A reason: it has been tried.
    if step.tier != "quick" or step.reason:
        return
    if sum(leaf.numel() for leaf in step.leaves) > recipe.most_parameters:
        return
    at_all, for_a_node = recipe.compile_seconds
    if (
        steps * min(recipe.saved_seconds * step.nodes, seconds / 2)
        > at_all + for_a_node * step.nodes
    ):
        bar.set_description("compiling")
        step.compile("full")
        bar.set_description("fitting")
