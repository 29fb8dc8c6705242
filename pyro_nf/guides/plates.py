"""The rows of a plate, of which each has latents of its own: where they are, and how they pack."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine import block
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.subsample_messenger import SubsampleMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

__all__ = [
    "Part",
    "Plate",
    "local_plates",
    "misfit",
    "not_finite",
    "other_rows",
    "parts_of",
    "plates_of_model",
    "positions",
]

SHARE = (
    "type AutoGuideList(model, create_plates=lambda ...: pyro.plate(name, size, subsample=...)), "
    "with a function of the model's arguments that makes the plate as the model does"
)
SPLIT = (
    "type guide = AutoGuideList(model), guide.append(AutoFlowGuide(poutine.block(model, "
    "hide={hide}))) and guide.append(AmortizedFlowGuide(poutine.block(model, expose={expose}), "
    "encoder))"
)


class Plate(NamedTuple):
    """A plate as the model has it in one run."""

    size: int
    rows: int  # of its subsample
    indices: Tensor | None  # of the rows; None where the plate is whole
    dim: int


class Part(NamedTuple):
    """One latent site within a row."""

    name: str
    support: Constraint
    free: tuple[int, ...]  # shape of the unconstrained value of one cell
    event_dim: int
    own: tuple[CondIndepStackFrame, ...]  # plates within a row

    @property
    def size(self) -> int:
        """How many unconstrained numbers a row has of this site."""
        return math.prod(frame.size for frame in self.own) * math.prod(self.free)

    def cut(self, piece: Tensor) -> Tensor:
        """The unconstrained value of the site, from its numbers in each row.

        Arguments:
            piece: With shape ``(*batch, size)``; one in the place of each plate within the row.

        Returns:
            With shape ``(*batch, *free)``, these plates in their places.
        """
        depth = max((-frame.dim for frame in self.own), default=0)
        batch = (1,) * (depth - piece.dim() + 1) + piece.shape[:-1]
        inner = tuple(frame.size for frame in self.own)
        value = piece.reshape(batch + inner + self.free)
        right = len(inner) + len(self.free)
        for place, frame in enumerate(self.own):
            value = value.transpose(frame.dim - right, place - right)
        return value.reshape(value.shape[: len(batch)] + self.free)


def local_plates(trace: Any) -> list[CondIndepStackFrame]:
    """The plates that all latent sites are in, from left to right.

    Arguments:
        trace: A run of the model.
    """
    frames = {
        name: {frame.name: frame for frame in site["cond_indep_stack"]}
        for name, site in trace.iter_stochastic_nodes()
    }
    outside = [name for name, inside in frames.items() if not inside]
    local = [name for name in frames if name not in outside]
    if outside and local:
        raise ValueError(
            f"the latent sites {', '.join(map(repr, outside))} are global, in no plate, and the "
            "encoder gives features for the rows of one; " + SPLIT.format(hide=local, expose=local)
        )
    if outside:
        raise ValueError(
            f"the latent sites {', '.join(map(repr, outside))} are in no plate, so there are no "
            "rows to encode; type AutoFlowGuide(model) for global latents"
        )
    shared = set.intersection(*(set(inside) for inside in frames.values()))
    if not shared:
        where = "; ".join(f"{name!r} in {', '.join(inside)}" for name, inside in frames.items())
        first = next(iter(frames))
        raise ValueError(
            f"the latent sites are in no plate together: {where}. Give each plate a guide of its "
            f"own in an AutoGuideList: {SPLIT.format(hide=[first], expose=[first])}"
        )
    inside = frames[next(iter(frames))]
    return sorted((inside[name] for name in shared), key=lambda frame: frame.dim)


def parts_of(trace: Any, rows: Sequence[CondIndepStackFrame]) -> tuple[list[Part], Tensor]:
    """The sites within a row, and the mean over rows of their unconstrained values.

    Arguments:
        trace: A run of the model.
        rows: The plates of the rows.
    """
    names = [frame.name for frame in rows]
    parts, means = [], []
    for name, site in trace.iter_stochastic_nodes():
        fn = site["fn"]
        own = sorted(
            (frame for frame in site["cond_indep_stack"] if frame.name not in names),
            key=lambda frame: frame.dim,
        )
        support = _of_any_row(name, fn.support, rows, fn.event_dim)
        free = biject_to(support).inv(site["value"])
        batch = len(fn.batch_shape)
        parts.append(Part(name, support, tuple(free.shape[batch:]), fn.event_dim, tuple(own)))
        mean = free.mean([batch + frame.dim for frame in rows], keepdim=True)
        means.append(mean.reshape(-1))
    return parts, torch.cat(means)


def _of_any_row(
    name: str, support: Constraint, rows: Sequence[CondIndepStackFrame], event_dim: int
) -> Constraint:
    """A support without the rows' dimensions, which all rows must share."""
    fixed = {}
    for key, value in vars(support).items():
        if isinstance(value, Constraint):
            value = _of_any_row(name, value, rows, event_dim)
        elif isinstance(value, Tensor):
            for frame in rows:
                dim = frame.dim - event_dim
                if value.dim() >= -dim:
                    first = value.narrow(dim, 0, 1)
                    if not bool((value == first).all()):
                        raise ValueError(
                            f"the support of the latent site {name!r} differs from row to row of "
                            f"the plate {frame.name!r}, and the guide needs one for rows that it "
                            "has not seen; sample the site on a fixed support, such as the unit "
                            "interval, and compute its value with pyro.deterministic"
                        )
                    value = first
        fixed[key] = value
    new = type(support).__new__(type(support))
    vars(new).update(fixed)
    return new


class _ReachedError(Exception):
    """The model has come to its first local latent site."""


class _Look(Messenger):
    """Notes the plates around the first of some sites, and leaves the model there."""

    def __init__(self, sites: frozenset[str]) -> None:
        super().__init__()
        self.sites = sites
        self.found: dict[str, Plate] = {}
        self.explicit: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is not None:
            self.explicit.add(msg["name"])
        if msg["name"] not in self.sites:
            return
        for plate in _PYRO_STACK:
            if isinstance(plate, SubsampleMessenger):
                rows = plate.subsample_size
                indices = plate._indices if rows < plate.size else None
                self.found[plate.name] = Plate(plate.size, rows, indices, plate.dim)
        raise _ReachedError


def plates_of_model(
    model: Callable[..., Any],
    sites: frozenset[str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[dict[str, Plate], set[str]]:
    """The plates in which a model samples some sites, and the names of those given an index.

    The model runs up to the first of the sites, unseen by any handler.
    """
    with block(), _Look(sites) as look, suppress(_ReachedError):
        model(*args, **kwargs)
    return look.found, look.explicit


def positions(parts: Sequence[Part]) -> Iterator[tuple[Part, slice]]:
    """Each site with its place in the vector of a row."""
    start = 0
    for part in parts:
        yield part, slice(start, start + part.size)
        start += part.size


# ---------------------------------------------------------------- what is wrong, in words


def misfit(
    parts: Sequence[Part], features: Tensor, plates: Sequence[pyro.plate], in_list: bool
) -> str:
    """The rows that the encoder gives, and those that there are."""
    names = ", ".join(repr(plate.name) for plate in plates)
    rows = ", ".join(str(plate.subsample_size) for plate in plates)
    full = ", ".join(str(plate.size) for plate in plates)
    also = f", or ({full}, F) for all its rows" if full != rows else ""
    whose = f". The plate is that of the AutoGuideList; if it is the wrong one, {SHARE}"
    return (
        f"the encoder gives features of shape {tuple(features.shape)} for the latent sites "
        f"{_named(parts)} in the plate {names} of {rows} rows; return a tensor of shape "
        f"({rows}, F){also}: a vector of F features for each row{whose if in_list else ''}"
    )


def not_finite(parts: Sequence[Part], features: Tensor, bad: Tensor) -> str:
    """Where the encoder gives NaN, and what may help."""
    return (
        f"the encoder gives features that are not finite for the latent sites {_named(parts)}, in "
        f"{int(bad.sum())} of {len(bad)} rows, the first of them row {int(bad.nonzero()[0])}, in a "
        f"tensor of shape {tuple(features.shape)}. Look for NaN in these rows of the data, scale "
        "the data to about one, or train with a smaller learning rate"
    )


def other_rows(name: str) -> str:
    """Whose rows an AutoGuideList would use, and how to share the model's."""
    return (
        f"the model gives the plate {name!r} an index of its rows, subsample=..., and an "
        f"AutoGuideList would draw others for the guides, and through them for the model; {SHARE}"
    )


def _named(parts: Sequence[Part]) -> str:
    return ", ".join(repr(part.name) for part in parts)
