"""The log evidence of rows, held out or not, by importance sampling from their posteriors."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_nf.guides import flow_parts
from pyro_nf.model import Many, Result, Values, read, summed
from pyro_nf.posterior.joint import Joint, chunk_size
from pyro_nf.randomness import kept_random_state

__all__ = ["RowEvidence", "log_evidence"]

Data = tuple[tuple[Any, ...], dict[str, Any]]  # what the model takes

FEW = 16  # rows of the run by which the memory that a row takes is found


def log_evidence(joint: Joint, n: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    r"""The log evidence of each row, estimated with n draws of its posterior.

    .. math::
        \log \hat p(x_i) = \log \frac{1}{n} \sum_{k=1}^n \frac{p(x_i, z_{ik})}{q(z_{ik} | x_i)},
        \qquad z_{ik} \sim q(z | x_i)

    Arguments:
        joint: A model and its guide.
        n: The number of draws.
        args: What the model takes; tensors as long as the first are cut into rows.
        kwargs: The same by name.

    Returns:
        With shape ``(rows,)``, in double precision.
    """
    plate = _plate(joint)
    data: Data = read(joint.model, args, kwargs, joint.dtypes)
    tensors = [x for x in pytree.tree_leaves(data) if isinstance(x, Tensor) and x.dim()]
    if not tensors:
        raise ValueError(
            "log_evidence needs rows: type posterior.log_evidence(x, n=1000) with the tensors "
            "that the model takes"
        )
    rows = len(tensors[0])
    few = min(FEW, rows)
    with joint.scope(), torch.no_grad():
        evidence = RowEvidence(joint, plate, n, _cut(data, rows, 0, few), few)
        starts = range(0, rows, evidence.step)
        chunks = [_cut(data, rows, start, start + evidence.step) for start in starts]
        return torch.cat([evidence(chunk) for chunk in chunks])


class RowEvidence:
    """The log evidence of each row of a chunk of the data, by importance sampling.

    Arguments:
        joint: A model and its guide.
        plate: The plate of the rows.
        n: The number of draws.
        example: A few rows of the data, by which the memory that a row takes is found.
        few: How many they are.

    Attributes:
        step: The rows of a chunk for which there is memory.
    """

    def __init__(self, joint: Joint, plate: str, n: int, example: Data, few: int) -> None:
        self.joint, self.plate, self.n = joint, plate, n
        with kept_random_state():
            traces = _traces(joint, plate, example)
        _check_rows(_of_rows(traces[0], plate), few, plate)
        cells = few * chunk_size(_values(traces))  # draws of single rows that may run together
        self.step = max(1, cells // n)
        # One for all chunks: whether draws can run together is found out once.
        self._runs = Many(partial(self._draw, example), min(n, cells), random=True)

    def __call__(self, chunk: Data) -> Tensor:
        """The log evidence of the rows of a chunk."""
        self._runs.function = partial(self._draw, chunk)
        return self._runs(self.n)[1]["weights"].logsumexp(0) - math.log(self.n)

    def _draw(self, chunk: Data, _: Values) -> Result:
        """The log importance weights of the rows of one draw."""
        guide, model, apart = _traces(self.joint, self.plate, chunk)
        weights = -_of_rows(guide, self.plate) + _of_rows(model, self.plate)
        if apart is not None and self.joint.without_discrete is not None:
            weights = weights + summed(apart, self.joint.without_discrete.nesting, self.plate)
        return torch.zeros((), dtype=torch.float64), {"weights": weights}


def _plate(joint: Joint) -> str:
    """The plate whose rows have posteriors of their own."""
    names = [name for part in flow_parts(joint.guide) for name in part.row_plates]
    if len(names) != 1:
        raise ValueError(
            "log_evidence is for rows that have latents of their own, of one plate and of an "
            f"AmortizedFlowGuide; this guide has {names or 'none'}; diagnose() estimates the "
            "evidence of all data together"
        )
    outside = [name for name in joint.enumerated if names[0] not in joint.dims[name]]
    if outside:
        raise ValueError(
            f"log_evidence cannot sum out {', '.join(map(repr, sorted(outside)))}, of which all "
            "rows have the same, row by row; give it a value, or move it into the plate "
            f"{names[0]!r}"
        )
    return names[0]


def _cut(data: Data, rows: int, start: int, stop: int) -> Data:
    """Some rows of the data; what is not as long as they are stays whole."""
    return pytree.tree_map_only(
        Tensor, lambda x: x[start:stop] if x.dim() and len(x) == rows else x, data
    )


def _traces(
    joint: Joint, plate: str, chunk: Data
) -> tuple[poutine.Trace, poutine.Trace, poutine.Trace | None]:
    """A run of the guide, and one of the model with its draw; the sites in the plate alone,
    since those outside are given, and without the scale of a subsample.

    The sites that depend on discrete ones, which are summed out, are in a third, if there are any.
    """
    args, kwargs = chunk
    guide = joint.trace_guide(joint.guide, args, kwargs)
    values = {name: guide.nodes[name]["value"] for name in joint.latents}
    model, apart = joint.trace_model(values, args, kwargs)
    guide = prune_subsample_sites(guide)
    for trace in (guide, model, *([] if apart is None else [apart])):
        for name, node in list(trace.nodes.items()):
            if node["type"] == "sample":
                if all(frame.name != plate for frame in node["cond_indep_stack"]):
                    trace.remove_node(name)
                node["scale"] = 1.0
        trace.compute_log_prob()
    return guide, model, apart


def _values(traces: Sequence[poutine.Trace | None]) -> list[Tensor]:
    nodes = [
        node
        for trace in traces
        if trace is not None
        for node in trace.nodes.values()
        if node["type"] == "sample"
    ]
    return [node[key] for node in nodes for key in ("value", "log_prob")]


def _of_rows(trace: poutine.Trace, plate: str) -> Tensor:
    """The log density of each row."""
    total: Any = 0.0
    for node in trace.nodes.values():
        if node["type"] == "sample":
            (frame,) = (frame for frame in node["cond_indep_stack"] if frame.name == plate)
            term = node["log_prob"].double().movedim(frame.dim, 0)
            total = total + term.reshape(frame.size, -1).sum(-1)
    return total


def _check_rows(weights: Tensor, rows: int, plate: str) -> None:
    if weights.shape != (rows,):
        raise ValueError(
            f"{rows} rows of data give a plate {plate!r} of {tuple(weights.shape)} rows; the "
            "model's plate must be of the rows that it is given, such as "
            f'pyro.plate("{plate}", size, subsample_size=len(x))'
        )
