"""Draws of a posterior by Markov chains that go on from the draws of its guide."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf.model import Latents, Packing, Target, Values, through, work
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.labels import components
from pyro_nf.posterior.refinable import base_flow, refinable
from pyro_nf.sampling import (
    CHOICE,
    SUPERCHAINS,
    Bridged,
    Phase,
    across,
    how_many,
    phases,
    starts,
)

__all__ = ["Learn", "Refinement", "refined", "shuffled"]

Learn = Callable[[Tensor], bool]

TURN = 64  # transitions after which it is asked whether chains are slow
TURNS = 4  # of the flow, at most
SHOWN = 5  # numbers that are named


@dataclass(frozen=True)
class Refinement:
    """Draws of chains that went on from a guide's, and how far they have come.

    Chains start in groups, superchains, each from one draw of the guide.

    Attributes:
        values: For each latent site of the guide the draws, of shape ``(superchains, n, *shape)``.
        r_hat: For each of them nested R-hat of its unconstrained numbers, or of their squares.
        r_hat_log_p: Nested R-hat of the log density.
        mark: R-hat of chains that have arrived is below: 1.01, or less for many chains.
        away: The numbers that have not arrived: of which R-hat is not below, or the mean or the
            spread still moves.
        arrived: Whether all have, and the log density.
        chains: How many chains there are.
        transitions: How many transitions each has made, of which the second half was kept, or that
            of those since the guide has last learnt from them.
        log_evidence: The log evidence, by importance weights of the guide's draws on their way to
            the posterior.
        log_evidence_se: Its standard error.
        temperatures: The number of steps of that way: 1 where the weights are nearly equal.
    """

    values: Values
    r_hat: Values
    r_hat_log_p: float
    mark: float
    away: tuple[str, ...]
    arrived: bool
    chains: int
    transitions: int
    log_evidence: float
    log_evidence_se: float
    temperatures: int

    def __len__(self) -> int:
        """The number of draws."""
        first = next(iter(self.values.values()))
        return first.shape[0] * first.shape[1]

    @property
    def worst(self) -> float:
        """The largest R-hat."""
        largest = max((float(r_hat.max()) for r_hat in self.r_hat.values()), default=1.0)
        return max(largest, self.r_hat_log_p)

    def content(self) -> dict[str, Any]:
        """Itself as tensors and plain values."""
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        for name in ("values", "r_hat"):
            found[name] = {site: value.cpu() for site, value in found[name].items()}
        return found

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> "Refinement | None":
        """That of some content, if there is one."""
        return None if content is None else cls(**content)

    def __str__(self) -> str:
        words = f"{self.chains} chains of {self.transitions:,} transitions, R-hat {self.worst:.3f}"
        if self.arrived:
            return f"refined by {words}"
        names = ", ".join(self.away[:SHOWN]) or "the log density"
        more = f" and {len(self.away) - SHOWN} more" if len(self.away) > SHOWN else ""
        return f"not yet refined by {words}: {names}{more} not there (R-hat below {self.mark:.3f})"

    def some(self, n: int) -> Values:
        """n of the draws, in random order; more than there are come again."""
        chosen = shuffled(len(self), n)
        return {
            name: value.flatten(0, 1)[chosen.to(value.device)]
            for name, value in self.values.items()
        }

    def spaced(self, n: int) -> tuple[Values, int]:
        """At least n of the draws, if there are so many, superchain by superchain, and of how many
        superchains."""
        count, length = next(iter(self.values.values())).shape[:2]
        chosen = torch.linspace(0, length - 1, min(length, math.ceil(n / count))).long()
        found = {n: v[:, chosen.to(v.device)].flatten(0, 1) for n, v in self.values.items()}
        return found, count


def shuffled(total: int, n: int) -> Tensor:
    """n places out of so many, in random order; of more than there are some come again."""
    return torch.cat([torch.randperm(total) for _ in range(math.ceil(n / total))])[:n]


def refined(
    joint: Joint, n: int, limit: int, seconds: float, progress: bool, learn: Learn | None
) -> Refinement | None:
    """Draws by chains that go on from a guide's until they have arrived, or to a limit.

    Ctrl-C ends them.

    Arguments:
        joint: Model and guide.
        n: The number of draws, at least.
        limit: The number of transitions of a chain, at most; a first few are made all the same.
        seconds: The time that this may take, but for these. After half of it nothing new begins,
            since a phase takes as long as all before it, and the way to the posterior is cut short.
        progress: Whether to show a bar.
        learn: What trains the guide on draws u of chains that mix slowly, if anything does, and
            says whether it has. Then they go on in its new coordinates.

    Returns:
        None where Ctrl-C came before there was anything.
    """
    begun, done, turns, last = time.monotonic(), 0, 0, None

    def is_late() -> bool:
        return 2 * (time.monotonic() - begun) > seconds

    way: Bridged | None = None
    guide = refinable(joint.guide)
    with joint.scope():
        target = _target(joint, guide)
        cost = work(target, target.start.expand(2, -1)) if target.vectorized else math.inf
        chains = how_many(cost, joint.chunk)
    with tqdm(desc="refining", disable=not progress, leave=False) as bar:
        try:
            with joint.scope():
                first, way = _way(target, guide, joint, chains, is_late)
                flow = base_flow(guide, joint.args, joint.kwargs)
                run = phases(target, flow, first, math.ceil(n / chains))
            while True:
                with joint.scope():
                    last = next(run)
                bar.set_postfix_str(f"R-hat {_worst(last):.3f}", refresh=False)
                bar.update(done + last.transitions - bar.n)
                if last.has_arrived or done + 2 * last.transitions > limit or is_late():
                    break
                if learn is None or turns == TURNS or last.transitions < TURN or not last.is_slow:
                    continue
                if learn(last.u.flatten(0, 2)):
                    done, turns = done + last.transitions, turns + 1
                    with joint.scope():
                        run = _again(target, guide, joint, n, last)
                else:
                    learn = None
            if turns and not is_late():
                with joint.scope():  # of a better guide, whose way is shorter
                    _, way = _way(target, guide, joint, chains, is_late)
        except KeyboardInterrupt:
            pass
    if last is None or way is None:
        return None
    with joint.scope():
        return _kept(joint, guide, last, way, done + last.transitions)


def _target(joint: Joint, guide: AutoContinuous) -> Target:
    """The log density that chains follow, if they can."""
    if not joint.is_smooth:
        missing = ", ".join(map(repr, sorted(joint.from_prior))) or "discrete ones"
        raise ValueError(
            f"refine needs all latents that are not summed out in the guide, as real numbers; it "
            f"lacks {missing}"
        )
    target = Target.of(guide, joint.args, joint.kwargs, joint.density)
    if target.random:
        raise ValueError(f"chains need one density for all runs of the model: {target.reason}")
    return target


def _way(
    target: Target, guide: AutoContinuous, joint: Joint, chains: int, is_late: Callable[[], bool]
) -> tuple[Tensor, Bridged]:
    """Where so many chains start, with shape ``(superchains, each, D)``; the way there."""
    flow, base = base_flow(guide, joint.args, joint.kwargs), guide.get_base_dist()
    z = base.sample(torch.Size([CHOICE * SUPERCHAINS]))
    log_p = torch.cat([through(flow, target)(part) for part in z.split(chains)])
    log_weights = log_p - base.log_prob(z)
    way = across(target, flow, z, log_weights, chains, is_late)
    first = starts(z, log_weights, way).unsqueeze(1)
    return first.expand(-1, chains // SUPERCHAINS, -1), way


def _again(
    target: Target, guide: AutoContinuous, joint: Joint, n: int, last: Phase
) -> Iterator[Phase]:
    """The same chains from where they are, in other coordinates."""
    flow, u = base_flow(guide, joint.args, joint.kwargs), last.u[-1]
    z = flow.inverse_and_log_det(u.flatten(0, 1))[0].view_as(u)
    return phases(target, flow, z, math.ceil(n / len(u.flatten(0, 1))))


def _worst(phase: Phase) -> float:
    return max(float(phase.r_hat.max()), phase.r_hat_log_p)


def _kept(
    joint: Joint, guide: AutoContinuous, phase: Phase, way: Bridged, transitions: int
) -> Refinement:
    """A phase by site."""
    packing = Packing(guide._unconstrained_shapes)
    latents = Latents(joint.model, packing, joint.args, joint.kwargs, joint.chunk)
    u = phase.u.permute(1, 2, 0, 3).flatten(1, 2)  # superchain, chain by chain
    values, _ = latents.unpack(u.flatten(0, 1))
    values = {name: values[name].unflatten(0, u.shape[:2]) for name in joint.latents}
    names = [
        part for name in packing for part in components(name, guide._unconstrained_shapes[name])
    ]
    log_evidence, error = way.log_evidence
    return Refinement(
        values=values,
        r_hat={name: phase.r_hat[packing.columns[name]] for name in packing},
        r_hat_log_p=phase.r_hat_log_p,
        mark=phase.mark,
        away=tuple(names[index] for index in phase.away.nonzero().flatten().tolist()),
        arrived=phase.has_arrived,
        chains=phase.u.shape[1] * phase.u.shape[2],
        transitions=transitions,
        log_evidence=log_evidence,
        log_evidence_se=error,
        temperatures=len(way.steps),
    )
