"""Draws of a posterior by Markov chains that go on from the draws of its guide."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor
from tqdm.auto import tqdm

from pyro_nf.flows import Flow, adapt
from pyro_nf.guides import flow_parts
from pyro_nf.model import Latents, Packing, Target, Values, work
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.summary import components
from pyro_nf.sampling import ARRIVED, CHOICE, SUPERCHAINS, Phase, how_many, phases, starts

__all__ = ["Refinement", "refinable", "refined"]

SHOWN = 5  # numbers that are named


@dataclass(frozen=True)
class Refinement:
    """Draws of chains that went on from a guide's, and how far they have come.

    Chains start in groups, superchains, each from one draw of the guide.

    Attributes:
        values: For each latent site of the guide the draws, of shape ``(superchains, n, *shape)``.
        r_hat: For each of them nested R-hat of its unconstrained numbers, or of their squares.
        r_hat_log_p: Nested R-hat of the log density.
        away: The numbers that have not arrived: of which R-hat is 1.01 or more, or the mean or the
            spread still moves.
        arrived: Whether all have, and the log density.
        chains: How many chains there are.
        transitions: How many transitions each has made, of which the second half was kept.
    """

    values: Values
    r_hat: Values
    r_hat_log_p: float
    away: tuple[str, ...]
    arrived: bool
    chains: int
    transitions: int

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
        return f"not yet refined by {words}: {names}{more} not there (R-hat below {ARRIVED})"

    def some(self, n: int) -> Values:
        """n of the draws, in random order; more than there are come again."""
        total = len(self)
        order = [torch.randperm(total) for _ in range(math.ceil(n / total))]
        chosen = torch.cat(order)[:n]
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


def refined(joint: Joint, n: int, limit: int, seconds: float, progress: bool) -> Refinement | None:
    """Draws by chains that go on from a guide's until they have arrived, or to a limit.

    Ctrl-C ends them.

    Arguments:
        joint: Model and guide.
        n: The number of draws, at least.
        limit: The number of transitions of a chain, at most; a first few are made all the same.
        seconds: The time that this may take, but for these.
        progress: Whether to show a bar.

    Returns:
        None where Ctrl-C came before there was anything.
    """
    begun = time.monotonic()
    guide = refinable(joint.guide)
    if not joint.is_smooth:
        missing = ", ".join(map(repr, sorted(joint.from_prior))) or "discrete ones"
        raise ValueError(
            f"refine needs all latents that are not summed out in the guide, as real numbers; it "
            f"lacks {missing}"
        )
    with joint.scope():
        target = Target.of(guide, joint.args, joint.kwargs, joint.density)
        if target.random:
            raise ValueError(f"chains need one density for all runs of the model: {target.reason}")
        flow = _flow(guide, joint)
        chains = how_many(work(target, target.start.expand(2, -1)), joint.chunk)
        base = guide.get_base_dist()
        z = base.sample(torch.Size([CHOICE * SUPERCHAINS]))
        log_q = base.log_prob(z)
        weights = torch.cat([_gain(target, flow, part) for part in z.split(chains)]) - log_q
        first = starts(z, weights).unsqueeze(1).expand(-1, chains // SUPERCHAINS, -1)
        last = None
        with tqdm(desc="refining", disable=not progress, leave=False) as bar:
            try:
                for last in phases(target, flow, first, math.ceil(n / chains)):
                    bar.set_postfix_str(f"R-hat {_worst(last):.3f}", refresh=False)
                    bar.update(last.transitions - bar.n)
                    # The next phase takes as long as all before it.
                    late = 2 * (time.monotonic() - begun) > seconds
                    if last.has_arrived or 2 * last.transitions > limit or late:
                        break
            except KeyboardInterrupt:
                pass
        return None if last is None else _kept(joint, guide, last, chains)


def refinable(guide: Callable[..., Any]) -> AutoContinuous:
    """The guide, if it packs all latents into one vector; or what to type in place of it."""
    name = type(guide).__name__
    points = sorted(frozenset[str]().union(*(part.point_sites for part in flow_parts(guide))))
    instead = "type fit(model, ...), or a guide such as AutoFlowGuide or AutoMultivariateNormal"
    if any(part.row_plates for part in flow_parts(guide)):
        raise ValueError(
            f"{name} has a posterior for each row of its data, which chains would have to know "
            "anew for other rows; resample(n) and log_evidence(...) correct its draws"
        )
    if points:
        raise ValueError(
            f"{name} has the sites {', '.join(points)} at points, of which "
            f'chains would know nothing; type rest="normal", or {instead}'
        )
    base = AutoContinuous.get_transform  # which says that there is none
    if not isinstance(guide, AutoContinuous) or type(guide).get_transform is base:
        raise ValueError(
            f"refine needs a guide that makes one vector of all latents from standard normal "
            f"numbers, and got {name}; {instead}"
        )
    return guide


def _flow(guide: AutoContinuous, joint: Joint) -> Flow:
    transform = guide.get_transform(*joint.args, **joint.kwargs)
    return adapt(transform, guide.latent_dim)


def _gain(target: Target, flow: Flow, z: Tensor) -> Tensor:
    u, log_det = flow.forward_and_log_det(z)
    return target(u) + log_det


def _worst(phase: Phase) -> float:
    return max(float(phase.r_hat.max()), phase.r_hat_log_p)


def _kept(joint: Joint, guide: AutoContinuous, phase: Phase, chains: int) -> Refinement:
    """A phase by site."""
    packing = Packing(guide._unconstrained_shapes)
    latents = Latents(joint.model, packing, joint.args, joint.kwargs, joint.chunk)
    u = phase.u.permute(1, 2, 0, 3).flatten(1, 2)  # superchain, chain by chain
    values, _ = latents.unpack(u.flatten(0, 1))
    values = {name: values[name].unflatten(0, u.shape[:2]) for name in joint.latents}
    names = [
        part for name in packing for part in components(name, guide._unconstrained_shapes[name])
    ]
    return Refinement(
        values=values,
        r_hat={name: phase.r_hat[packing.columns[name]] for name in packing},
        r_hat_log_p=phase.r_hat_log_p,
        away=tuple(names[index] for index in phase.away.nonzero().flatten().tolist()),
        arrived=phase.has_arrived,
        chains=chains,
        transitions=phase.transitions,
    )
