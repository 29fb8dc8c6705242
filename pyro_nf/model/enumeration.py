"""Discrete latent sites summed out of a run of a model, and drawn given the rest of it."""

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from pyro import poutine
from pyro.ops.contract import contract_to_tensor
from pyro.ops.packed import pack
from pyro.ops.rings import LogRing
from torch import Tensor

__all__ = ["drawn_sites", "factors", "letters", "summed"]


def summed(trace: poutine.Trace, nesting: int, rows: str | None = None) -> Tensor:
    r"""The log density of a run, with the sites summed out of which it has all values.

    .. math:: \log \sum_z \prod_i p_i(x_i, z)

    Pyro finds how plates nest, and the sums are done here, one site after the other: a Markov
    chain of length T takes T of them. Where a mask hides a site that is summed out, it is as if
    the site were not there. A scale multiplies the logarithm of the sum.

    Arguments:
        trace: A run under ``poutine.enum``.
        nesting: How many dimensions its plates and batches use.
        rows: A plate of which each row keeps a density of its own.

    Returns:
        In double precision, a scalar or of shape ``(rows,)``.
    """
    return _eliminated(trace, nesting, rows)[0]


def drawn_sites(trace: poutine.Trace, nesting: int) -> dict[str, Tensor]:
    """Values of the sites of which a run has all, drawn given its other sites.

    They are drawn in the opposite of the order in which :func:`summed` sums them out, each given
    those that were drawn before it: a draw of all of them together.

    Arguments:
        trace: A run under ``poutine.enum``.
        nesting: How many dimensions its plates and batches use.
    """
    _, steps = _eliminated(trace, nesting)
    drawn: dict[str, tuple[str, Tensor]] = {}  # by dimension: plates, and the index of a value
    for dim, term in reversed(steps):
        dims = letters(term)
        for other in [letter for letter in dims if letter in drawn]:
            place = dims.index(other)
            index = _aligned(*drawn[other], dims)
            shape = [1 if at == place else size for at, size in enumerate(term.shape)]
            term = term.gather(place, index.expand(shape)).squeeze(place)
            dims = dims.replace(other, "")
        place = dims.index(dim)
        gumbel = -(-torch.rand_like(term).log()).log()
        drawn[dim] = dims.replace(dim, ""), (term + gumbel).argmax(place)
    found = {}
    for name, node in trace.nodes.items():
        if node["infer"].get("_enumerate_dim") is not None:
            found[name] = _value(node, drawn.get(node["infer"]["_enumerate_symbol"]))
    return found


def _value(node: dict[str, Any], drawn: tuple[str, Tensor] | None) -> Tensor:
    """The value of a site of which an index was drawn; the only one where there is but one."""
    frames = sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
    shape = [1] * max((-frame.dim for frame in frames), default=0)
    for frame in frames:
        shape[frame.dim] = frame.size
    symbols = node["infer"]["_dim_to_symbol"]
    plates = "".join(symbols[frame.dim] for frame in frames)
    event = node["fn"].event_shape
    values = node["value"].reshape(-1, *event)
    if drawn is None:
        index = torch.zeros(shape, dtype=torch.long, device=values.device)
    else:
        index = _aligned(*drawn, plates).expand([frame.size for frame in frames]).reshape(shape)
    return values[index]


# -------------------------------------------------------------------- densities of the sites


def factors(trace: poutine.Trace, nesting: int) -> dict[str, Tensor]:
    """The log densities of the sites, masked and in double precision, without their scales.

    Without the dimensions that they do not depend on; batches outside of plates are added up.

    Arguments:
        trace: A run under ``poutine.enum``, of sites alone.
        nesting: How many dimensions its plates and batches use.
    """
    trace.symbolize_dims()
    found = {}
    for name, node in trace.nodes.items():
        log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
        place, mask = node["infer"].get("_enumerate_dim"), node["mask"]
        if mask is not None and mask is not True:
            many = 1 if place is None else node["value"].shape[place - node["fn"].event_dim]
            hidden = -log_prob.new_tensor(float(many)).log()  # all values of one that is not there
            log_prob = torch.where(torch.as_tensor(mask, device=hidden.device), log_prob, hidden)
        symbols = node["infer"]["_dim_to_symbol"]
        loose = [d for d in range(-min(nesting, log_prob.dim()), 0) if d not in symbols]
        loose = [dim for dim in loose if log_prob.shape[dim] > 1]
        if loose:
            log_prob = log_prob.sum(loose, keepdim=True)
        found[name] = pack(log_prob.double(), symbols)
    return found


def _eliminated(
    trace: poutine.Trace, nesting: int, rows: str | None = None
) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """What :func:`summed` gives, and the sums that were done."""
    plates: dict[str, int] = {}
    groups: dict[float, OrderedDict[frozenset[str], list[Tensor]]] = {}
    found = factors(trace, nesting)
    for name, term in found.items():
        node = trace.nodes[name]
        frames = [f for f in node["cond_indep_stack"] if f.vectorized]
        sizes = {trace.plate_to_symbol[frame.name]: frame.size for frame in frames}
        plates |= sizes
        tree = groups.setdefault(float(node["scale"]), OrderedDict())
        tree.setdefault(frozenset(sizes), []).append(term)
    sums = {letter for term in found.values() for letter in letters(term)} - set(plates)
    ring = _Sums(plates)
    kept = frozenset(() if rows is None else trace.plate_to_symbol[rows])
    totals = [
        scale * contract_to_tensor(tree, sums & _letters(tree), target_ordinal=kept, ring=ring)
        for scale, tree in groups.items()
    ]
    total = torch.stack(totals).sum(0)
    lowest = torch.finfo(total.dtype).min / 2
    return torch.where(total < lowest, -torch.inf, total), ring.steps


def _letters(tree: OrderedDict[frozenset[str], list[Tensor]]) -> set[str]:
    return {letter for terms in tree.values() for term in terms for letter in letters(term)}


# -------------------------------------------------------------------- sums


class _Sums(LogRing):
    """Sums out one dimension after the other, each time that which takes the least memory.

    Pyro's own does as much by an autograd function, which ``torch.func`` does not take.

    Attributes:
        steps: Of each sum the dimension, and what was summed.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__(dim_to_size=sizes)
        self.steps: list[tuple[str, Tensor]] = []

    def sumproduct(self, terms: Sequence[Tensor], dims: Any) -> Tensor:
        pool = dict(enumerate(terms))
        numbers = count(len(pool))
        where = {dim: {i for i, term in pool.items() if dim in letters(term)} for dim in dims}

        def cost(dim: str) -> int:
            sizes = {d: s for i in where[dim] for d, s in _sizes(pool[i])}
            return torch.Size(sizes.values()).numel()

        costs = {dim: cost(dim) for dim in where}
        queue = [(size, dim) for dim, size in costs.items()]
        heapq.heapify(queue)
        while queue:
            size, dim = heapq.heappop(queue)
            if costs.get(dim) != size:
                continue  # of before one of its neighbours was summed out
            used = where.pop(dim)
            del costs[dim]
            joint = _product([pool.pop(i) for i in sorted(used)])
            self.steps.append((dim, joint))
            new = next(numbers)
            pool[new] = _sum(joint, dim)
            for other in set(letters(joint)) & where.keys():
                where[other] = where[other] - used | {new}
                costs[other] = cost(other)
                heapq.heappush(queue, (costs[other], other))
        return _product(list(pool.values()))


def letters(term: Tensor) -> str:
    """The letters of a packed tensor's dimensions, which Pyro keeps on the tensor."""
    return str(term._pyro_dims)  # type: ignore[attr-defined]


def _named(term: Tensor, dims: str) -> Tensor:
    term._pyro_dims = dims  # type: ignore[attr-defined]
    return term


def _sizes(term: Tensor) -> list[tuple[str, int]]:
    return list(zip(letters(term), term.shape, strict=True))


def _aligned(dims: str, term: Tensor, wanted: str) -> Tensor:
    """A tensor with the dimensions that are wanted, of size one where it has not got them."""
    there = [letter for letter in wanted if letter in dims]
    term = term.permute([dims.index(letter) for letter in there])
    sizes = dict(zip(there, term.shape, strict=True))
    return term.reshape([sizes.get(letter, 1) for letter in wanted])


def _product(terms: Sequence[Tensor]) -> Tensor:
    dims = "".join(sorted({letter for term in terms for letter in letters(term)}))
    parts = [_aligned(letters(term), term, dims) for term in terms]
    return _named(sum(parts[1:], parts[0][...]), dims)


def _sum(term: Tensor, dim: str) -> Tensor:
    """The log of a sum of exponentials, of which the gradient is zero, not NaN, for no weight."""
    dims = letters(term)
    place, numbers = dims.index(dim), torch.finfo(term.dtype)
    top = term.detach().amax(place, keepdim=True).clamp_min(numbers.min)
    total = (term - top).exp().sum(place).clamp_min(numbers.tiny)
    return _named(total.log() + top.squeeze(place), dims.replace(dim, ""))
