"""What a check is shown of a posterior, and what it finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pyro_nf.model import Many, Values
from pyro_nf.posterior.joint import Joint

__all__ = ["Case", "Finding", "Verdict", "Vote", "still", "unfinished"]

Verdict = Literal["good", "usable", "poor"]
Vote = Literal["spoils", "caps", "lifts", "neutral"]


@dataclass(frozen=True)
class Case:
    """A guide and its draws, or those of chains from there on, for checks to look at.

    Attributes:
        joint: Model and guide.
        model: The density of the model at many draws.
        values: The draws.
        log_p: Their log densities under the model.
        log_q: Their log densities under the guide; None for draws of chains.
        verdict: What their importance weights say, or the chains.
    """

    joint: Joint
    model: Many
    values: Values
    log_p: Tensor
    log_q: Tensor | None
    verdict: Verdict


@dataclass(frozen=True)
class Finding:
    """One number that was found about a posterior, and its vote on the verdict.

    Attributes:
        name: What the number is of.
        value: The number.
        vote: ``"spoils"`` makes the verdict poor, ``"caps"`` lets it be usable at most,
            ``"lifts"`` makes a usable guide good, and ``"neutral"`` leaves the verdict as it is.
        words: The number as the printed diagnosis has it.
        decided: The rule by which it spoils, caps or lifts.
        message: What it means, and what to try next, where it spoils or caps.
    """

    name: str
    value: float
    vote: Vote
    words: str
    decided: str = ""
    message: str = ""


def still(moving: Sequence[str]) -> str:
    """What parameters of the model mean that were left elsewhere, and what to type."""
    verb = "is" if len(moving) == 1 else "are"
    return (
        f"{', '.join(moving)}, of the model's own parameters, {verb} not yet where the evidence is "
        "largest: type steps=... with more steps than there were, begin nearer to it, or take a "
        "guide that can come nearer to the posterior, as fit's own can"
    )


def unfinished(moving: Sequence[str]) -> list[Finding]:
    """That parameters of the model, if any, were left on their way: the posterior is of others."""
    if not moving:
        return []
    words, count = f"{', '.join(moving)} of the model", float(len(moving))
    decided = "parameters of the model are not where the evidence is largest"
    return [Finding("still moving", count, "spoils", words, decided, still(moving))]
