"""Names for flows, and the formula that builds a stack of them."""

import ast
import difflib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch.distributions import Transform

from pyro_nf.flows.adapted import Adapted, adapt
from pyro_nf.flows.flow import Chain, Flow

__all__ = ["FlowSpec", "assemble", "flow_names", "make_flow", "register"]

FlowSpec = str | type[Flow] | Transform | Sequence["FlowSpec"] | Callable[[int], Transform]
Layer = tuple[type[Flow], dict[str, object]]  # a class and the options for it
Item = Layer | Transform | Callable[[int], Transform]
F = TypeVar("F", bound=type[Flow])

MAX_LAYERS = 10_000  # a slip of the finger, not a flow

_FLOWS: dict[str, type[Flow]] = {}


def register(*names: str) -> Callable[[F], F]:
    """Register a flow class under a name, and aliases, for use in formulas.

    A class may be registered anew under its name, as when a notebook cell runs again.

    Example:
        >>> @register("mirror")
        ... class Mirror(Flow):
        ...     def forward_and_log_det(self, x, context=None):
        ...         return -x, torch.zeros_like(x[..., 0])
        >>> make_flow("mirror*2", 3)(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def decorate(cls: F) -> F:
        if not (isinstance(cls, type) and issubclass(cls, Flow)):
            raise TypeError(f"register expects a subclass of pyro_nf.Flow, got {cls!r}")
        option_names(cls)
        for name in names:
            if not name.isidentifier():
                raise ValueError(f"a flow's name must be an identifier, got {name!r}")
            known = _FLOWS.get(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"the name {name!r} belongs to {known.__module__}.{known.__qualname__}; "
                    "choose another"
                )
        _FLOWS.update(dict.fromkeys(names, cls))
        return cls

    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError('type @register("name") above the class')
    return decorate


def flow_names() -> list[str]:
    """The names that a formula may use, sorted.

    Example:
        >>> "planar" in flow_names()
        True
    """
    return sorted(_FLOWS)


def flow_label(flow: Flow) -> str:
    """The name of a flow in a formula; its class's name, or its transform's, where it has none.

    Example:
        >>> flow_label(make_flow("planar*8", 3))
        'planar*8'
    """
    kind = type(flow.transform if isinstance(flow, Adapted) else flow)
    name = next((name for name, cls in _FLOWS.items() if cls is kind), kind.__name__)
    layers = getattr(flow, "layers", 1)
    return name if layers == 1 else f"{name}*{layers}"


def make_flow(spec: FlowSpec, dim: int, context_dim: int = 0) -> Flow:
    """Build a flow on R^dim.

    Arguments:
        spec: One of

            - a formula: ``"planar*8"``, ``"additive_coupling(hidden=(64, 64))*6 + tril"``; read
              from the base to the posterior; ``*`` repeats, ``+`` appends, ``()`` groups;
            - a :class:`Flow` class, or an instance, which is used as it is;
            - a Pyro or torch transform, or a function from ``dim`` to one;
            - a list of these.
        dim: The dimension.
        context_dim: The size of the context; transforms which know none ignore it.

    Flows that move only a part of the coordinates take an option ``after``, which is set to the
    layer of their class before them, to move the others: none is left untouched. Flows that take
    an option ``layers`` hold equal layers in a row in one module.

    Example:
        >>> make_flow("planar*2 + tril", 3)
        Chain(
          3
          (flows): ModuleList(
            (0): Planar(
              3, layers=2
              (params): Params(w=(2, 3), u=(2, 3), b=(2,))
            )
            (1): Tril(
              3
              (params): Params(loc=(3,), log_scale=(3,), below=(3,))
            )
          )
        )
    """
    flow = assemble(spec, dim, context_dim)
    _probe(flow)
    return flow


def assemble(spec: FlowSpec, dim: int, context_dim: int = 0) -> Flow:
    """Build a flow as :func:`make_flow` does, without running it."""
    flows: list[Flow] = []
    for item in _merged(_flatten(spec)):
        if isinstance(item, tuple):
            cls, options = item
            earlier = [flow for flow in flows if type(flow) is cls]
            if earlier and "after" in option_names(cls) and "flip" not in options:
                options = {"after": earlier[-1], **options}
            flow = _construct(cls, dim, context_dim, options)
        else:
            flow = _adapt(item, dim)
        flows.append(flow)
    return flows[0] if len(flows) == 1 else Chain(flows)


def _merged(items: Iterator[Item]) -> Iterator[Item]:
    """Equal layers in a row as one module, where the class can hold several."""
    for item, run in itertools.groupby(items):
        equal = list(run)
        if isinstance(item, tuple) and len(equal) > 1:
            cls, options = item
            if "layers" in option_names(cls) and "layers" not in options:
                equal = [(cls, {**options, "layers": len(equal)})]
        yield from equal  # not one of them twice: equal transforms have parameters of their own


def _flatten(spec: FlowSpec) -> Iterator[Item]:
    """The layers of a spec, from the base to the posterior."""
    if isinstance(spec, str):
        yield from parse_formula(spec)
    elif isinstance(spec, Transform):
        yield spec
    elif isinstance(spec, type) and issubclass(spec, Flow):
        yield spec, {}
    elif isinstance(spec, Sequence) and not isinstance(spec, bytes):
        if not spec:
            raise ValueError('expected at least one flow, got an empty list; try "planar*8"')
        for item in spec:
            yield from _flatten(item)
    elif callable(spec):
        yield spec  # type: ignore[misc]  # other classes are factories too
    else:
        raise TypeError(
            f"expected a formula, a Flow class or instance, a transform, a function from dim to "
            f'a transform, or a list of these; got {spec!r}; try "planar*8"'
        )


def _adapt(item: Transform | Callable[[int], Transform], dim: int) -> Flow:
    """An instance, or what a factory makes of `dim`, as a flow."""
    transform = item if isinstance(item, Transform) else item(dim)
    if not isinstance(transform, Transform):
        raise TypeError(f"{item!r} was called with dim={dim} and gave {transform!r}, no transform")
    flow = adapt(transform, dim)
    if flow.dim != dim:
        raise ValueError(f"{flow!r} has dim={flow.dim}, but the dimension here is {dim}")
    return flow


def option_names(cls: type[Flow]) -> list[str]:
    """What a flow class takes after ``dim`` and ``context_dim``."""
    names = list(inspect.signature(cls).parameters)
    if names[:2] != ["dim", "context_dim"]:
        raise TypeError(
            f"{cls.__name__} must be made with (dim, context_dim=0, ...); its __init__ takes "
            f"{inspect.signature(cls)}"
        )
    return names[2:]


def _construct(cls: type[Flow], dim: int, context_dim: int, options: dict[str, object]) -> Flow:
    known = option_names(cls)
    for option in options:
        if option not in known:
            raise ValueError(
                f"{cls.__name__} has no option {option!r}; "
                + (f"it has {', '.join(known)}" if known else "it has none")
            )
    return cls(dim, context_dim, **options)


def _probe(flow: Flow) -> None:
    """Run a new flow once, so that wrong shapes are met here and not inside a model."""
    example = next(flow.parameters(), torch.empty(0))
    x = torch.linspace(-1, 1, 2 * flow.dim, dtype=example.dtype, device=example.device)
    context = x.new_zeros(flow.context_dim) if flow.context_dim else None
    try:
        with torch.no_grad():
            y, log_det = flow.forward_and_log_det(x.reshape(2, flow.dim), context)
    except NotImplementedError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"{flow_label(flow)} fails on vectors of dimension {flow.dim}: {error}"
        ) from error
    if y.shape != (2, flow.dim) or log_det.shape != (2,):
        raise ValueError(
            f"{type(flow).__name__} maps (2, {flow.dim}) to {tuple(y.shape)} with a "
            f"log-determinant of shape {tuple(log_det.shape)}; expected {(2, flow.dim)} and "
            "(2,): one log-determinant a vector, summed over its elements"
        )


def parse_formula(formula: str) -> list[Layer]:
    """The layers of a formula, which is parsed as a Python expression and never evaluated.

    Example:
        >>> [(cls.__name__, options) for cls, options in parse_formula("radial*2 + diag")]
        [('Radial', {}), ('Radial', {}), ('Diag', {})]
    """
    try:
        # A formula may stretch over lines.
        return _parse(ast.parse(" ".join(formula.split()), mode="eval").body, formula)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise _bad_formula(formula, "it is not a valid expression") from error


def _parse(node: ast.expr, formula: str) -> list[Layer]:
    match node:
        case ast.Name(name):
            return [(_lookup(name, formula), {})]
        case ast.Call(func=ast.Name(name), args=positional, keywords=keywords):
            cls = _lookup(name, formula)
            if positional:
                given = ast.unparse(positional[0])
                raise _bad_formula(formula, f"write {name}(option={given}), naming the option")
            return [(cls, _options(keywords, formula))]
        case ast.BinOp(left, ast.Add(), right):
            return _parse(left, formula) + _parse(right, formula)
        case ast.BinOp(left, ast.Mult(), count):
            return _repeat(_parse(left, formula), count, formula)
    raise _bad_formula(formula, f"{ast.unparse(node)!r} is no flow")


def _repeat(layers: list[Layer], count: ast.expr, formula: str) -> list[Layer]:
    match count:
        case ast.Constant(value=int(times)) if not isinstance(times, bool):
            if 1 <= times * len(layers) <= MAX_LAYERS:
                return layers * times
    limit = f"a whole number, from 1 to {MAX_LAYERS:,} layers in all"
    raise _bad_formula(formula, f"a flow is repeated by {limit}, not by {ast.unparse(count)}")


def _options(keywords: list[ast.keyword], formula: str) -> dict[str, object]:
    options: dict[str, object] = {}
    for keyword in keywords:
        if keyword.arg is None or keyword.arg in options:
            raise _bad_formula(formula, f"name each option once, not {ast.unparse(keyword)!r}")
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except (TypeError, ValueError) as error:
            said = ast.unparse(keyword)
            raise _bad_formula(formula, f"the option {said!r} is not a literal") from error
    return options


def _lookup(name: str, formula: str) -> type[Flow]:
    if name in _FLOWS:
        return _FLOWS[name]
    near = difflib.get_close_matches(name, _FLOWS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown flow {name!r} in the formula {formula!r}: {hint}"
        f"The flows are {', '.join(flow_names())}"
    )


def _bad_formula(formula: str, why: str) -> ValueError:
    return ValueError(
        f"cannot read the flow formula {formula!r}: {why}. "
        'Write it like "planar*8" or "additive_coupling(hidden=(64, 64))*6 + tril"'
    )
