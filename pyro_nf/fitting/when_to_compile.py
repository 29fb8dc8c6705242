"""How fast a run steps: traced at once, compiled where what is left of the run repays it."""

import warnings
from typing import Any

from pyro_nf.fitting.step import Step

__all__ = ["begin", "upgrade"]

# Seconds that inductor takes: what it costs at all, and for each node of the step's graph; and
# what it saves of each step: the calls of the nodes, but not the work of large ones.
TIME = (5.0, 0.02)
GAIN = 1e-6
# Parameters up to which it saves any: of millions, gathered from many tensors, its one loop for
# all of Adam takes longer than the operations one by one.
MOST = 300_000


def begin(step: Step, compile: str | bool, bar: Any) -> None:  # fit's word
    """Move a step to the tier in which its run begins.

    Arguments:
        step: The step.
        compile: What :func:`~pyro_nf.fitting.fit` takes.
        bar: A progress bar, which says so.
    """
    if compile is False:
        return
    for tier in ("full", "quick") if compile == "full" else ("quick",):
        bar.set_description("tracing" if tier == "quick" else "compiling")
        if step.compile(tier):
            break
    else:
        # Past this function and Run.go and fit, to the line that called fit.
        warnings.warn(f"the step cannot be compiled and runs eagerly: {step.reason}", stacklevel=4)
    bar.set_description("fitting")


def upgrade(step: Step, left: int, seconds: float, bar: Any) -> None:
    """Compile a traced step fully where the rest of its run repays it.

    Arguments:
        step: The step.
        left: The steps that are left of the run.
        seconds: What each takes now.
        bar: A progress bar, which says so.
    """
    # A reason: it has been tried.
    if step.tier != "quick" or step.reason or sum(leaf.numel() for leaf in step.leaves) > MOST:
        return
    price = TIME[0] + TIME[1] * step.nodes
    if left * min(GAIN * step.nodes, seconds / 2) > price:
        bar.set_description("compiling")
        step.compile("full")
        bar.set_description("fitting")
