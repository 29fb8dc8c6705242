"""How what a user has becomes what a model computes with: tried out by runs of the model."""

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_nf.model.data import FORMS, Form, argument_names, as_tensors, leaves
from pyro_nf.model.failures import in_a_line
from pyro_nf.model.trial import Data, Trial

__all__ = ["Reading", "explain_dtypes", "read"]

Model = Callable[..., Any]

# Of what torch says where dtypes do not go together.
CLASH = re.compile(
    r"(?<!infer )dtype|scalar type|be cast|bool tensor|as indices|implemented for '|data type"
)
LOST = 1e-3  # of the spread of some numbers, by rounding: then there is a word
MANY = 8  # arguments of whole numbers, of which subsets are tried


def read(
    model: Model,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    latents: Collection[torch.dtype] = (),
) -> Data:
    """What a model takes, as tensors with which it can compute, see :class:`Reading`."""
    return Reading.of(model, args, kwargs, latents)(args, kwargs)


@dataclass(frozen=True)
class Reading:
    """How the arguments that a user gives become those that a model takes.

    Arrays, columns, data frames and lists of numbers become tensors, see
    :func:`~pyro_nf.model.data.as_tensors`. Then the model is run:

    - floats become those of its latents, where these have one dtype; a model that makes its priors
      of the data's dtype keeps it;
    - whole numbers and booleans stay, but where the model can compute with floats only, such as
      `x @ b` or the outcomes of a ``Bernoulli``;
    - a data frame becomes a dict of its columns where the model asks for these by name; a list of
      numbers, or all, stays as it is given where the model runs with nothing else.

    Arguments:
        model: A Pyro model.
        dtype: That of all floats; None for that which each has.
        form: What becomes a tensor, as for :func:`~pyro_nf.model.data.as_tensors`.
        real: What of whole numbers becomes floats, by what the user calls it.
    """

    model: Model
    dtype: torch.dtype | None = None
    form: Form = "tensors"
    real: frozenset[str] = frozenset()

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Data:
        """The arguments as tensors; what cannot be meant is refused, what is lost is told."""
        before = self._tensors(args, kwargs)
        for name, value in _named(self.model, *before):
            _tell_lost(name, value, self._cast(name, value))
        return self.convert(args, kwargs)

    def convert(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Data:
        """The same without a look at what is lost."""
        names = argument_names(self.model, args)
        given, named = self._tensors(args, kwargs)
        pairs = zip(names, given, strict=True)
        return (
            tuple(self._casts(name, value) for name, value in pairs),
            {name: self._casts(name, value) for name, value in named.items()},
        )

    def _tensors(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Data:
        names = argument_names(self.model, args)
        return (
            tuple(as_tensors(n, v, self.form) for n, v in zip(names, args, strict=True)),
            {name: as_tensors(name, value, self.form) for name, value in kwargs.items()},
        )

    def _casts(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._cast(name, value)
        if type(value) is dict:
            return {key: self._casts(f"{name}[{key!r}]", part) for key, part in value.items()}
        if type(value) in (list, tuple):
            parts = (self._casts(f"{name}[{key!r}]", part) for key, part in enumerate(value))
            return type(value)(parts)
        return value

    def _cast(self, name: str, value: Tensor) -> Tensor:
        if isinstance(value, nn.Parameter) or value.is_complex():
            return value
        if value.is_floating_point():
            return value if self.dtype is None else value.to(self.dtype)
        return value.to(self.dtype or torch.get_default_dtype()) if name in self.real else value

    # ---------------------------------------------------------------- the search

    @classmethod
    def of(
        cls,
        model: Model,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        latents: Collection[torch.dtype] = (),
    ) -> "Reading":
        """The first with which the model runs, of those that change little.

        Where it runs with none for another reason than dtypes, that is met later, and told there.

        Arguments:
            model: A Pyro model.
            args: What the user gives.
            kwargs: What the user gives.
            latents: The dtypes of its latents, where these are known.
        """
        reading, run = _formed(cls(model), args, kwargs)
        tensors = list(_named(model, *reading._tensors(args, kwargs)))
        floats = {value.dtype for _, value in tensors if value.is_floating_point()}
        wanted = _wanted(set(latents) or run.latents)
        clashes = _is_clash(run.error)
        if not clashes and (floats <= (set(latents) or run.latents or floats)):
            return reading
        if run.error is not None and not clashes:
            return replace(reading, dtype=wanted[0])
        whole = [n for n, value in tensors if not (value.is_floating_point() or value.is_complex())]
        failing = None  # for another reason, without a change of whole numbers
        for real in _subsets(whole) if clashes else [frozenset[str]()]:
            for dtype in wanted:
                other = replace(reading, dtype=dtype, real=real)
                error = Trial(model, other.convert(args, kwargs)).error
                if error is None:
                    return other
                if failing is None and not (real or _is_clash(error)):
                    failing = other
        if clashes and failing is None:
            assert run.error is not None
            explain_dtypes(run.error, model, args, kwargs)
        return failing or reading


def _formed(
    reading: Reading, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Reading, Trial]:
    """The first form with which the model runs, or would but for dtypes; else the first of all.

    Where that is refused, and the model runs with no other, the refusal is raised.
    """
    refusal: TypeError | None = None
    tried: list[tuple[Reading, Trial]] = []
    seen = set()
    for form in FORMS:
        other = replace(reading, form=form)
        try:
            data = other._tensors(args, kwargs)
        except TypeError as error:
            refusal = refusal or error
            continue
        if str(data) not in seen:
            seen.add(str(data))
            tried.append((other, Trial(reading.model, data)))
            raised = tried[-1][1].error
            if raised is None or (_is_clash(raised) and form != "given"):
                return tried[-1]
    if refusal is not None:
        raise refusal
    first = tried[0][1].error
    if len(tried) > 1 and isinstance(first, AttributeError) and "'Tensor'" in str(first):
        raise TypeError(
            f"arrays, columns and data frames are tensors to the model: {in_a_line(first)}; type "
            "df['x'] in the model for a column of a data frame, and functions of torch"
        ) from first
    return tried[0]


def _wanted(latents: set[torch.dtype]) -> list[torch.dtype]:
    """The dtypes that floats may have, the likeliest first."""
    only = list(latents) if len(latents) == 1 else []
    rest = sorted(latents, key=lambda dtype: dtype.itemsize)
    return list(dict.fromkeys([*only, torch.get_default_dtype(), *rest]))


def _subsets(names: Sequence[str]) -> list[frozenset[str]]:
    """None of some names, one, all but one, all; of many, none or all."""
    every = frozenset(names)
    some = [frozenset({name}) for name in names] if len(names) <= MANY else []
    return list(dict.fromkeys([frozenset(), *some, *(every - one for one in some), every]))


def _named(
    model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model's arguments, each with what the user calls it."""
    for name, value in zip(argument_names(model, args), args, strict=True):
        yield from leaves(name, value)
    for name, value in kwargs.items():
        yield from leaves(name, value)


def _tell_lost(name: str, value: Tensor, cast: Tensor) -> None:
    """Say where numbers lose what tells them apart; refuse those that become infinite."""
    if value.dtype == cast.dtype or not value.numel() or value.is_sparse:
        return
    finite = value.isfinite()
    if not bool(cast[finite].isfinite().all()):
        largest = float(value[finite].abs().max())
        raise ValueError(
            f"the argument {name} has numbers up to {largest:.0e}, more than {cast.dtype} holds; "
            f"divide it, or type torch.set_default_dtype(torch.float64)"
        )
    rows = torch.where(finite, value, 0).double().reshape(len(value) if value.dim() else 1, -1)
    lost = (rows - cast.nan_to_num(0, 0, 0).double().reshape(rows.shape)).abs().amax(0)
    spread = rows.std(0, correction=0)
    if bool(((lost > LOST * spread) & (spread > 0)).any()):
        warnings.warn(
            f"the argument {name} is {value.dtype} and becomes {cast.dtype}, which the model's "
            "latents are and which hardly tells its numbers apart; subtract their mean, or type "
            "torch.set_default_dtype(torch.float64)",
            stacklevel=4,
        )


def _is_clash(error: Exception | None) -> bool:
    return isinstance(error, RuntimeError | IndexError) and CLASH.search(str(error)) is not None


def explain_dtypes(
    error: Exception, model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Say which numbers have which dtype, and what to type, if a model fails of dtypes."""
    if not _is_clash(error):
        return
    kinds: dict[str, list[str]] = {}
    for name, value in _named(model, *Reading(model)._tensors(args, kwargs)):
        kinds.setdefault(str(value.dtype), []).append(name)
    latents = " and ".join(sorted(map(str, Trial(model, (tuple(args), dict(kwargs))).latents)))
    told = [f"{', '.join(names)} as {kind}" for kind, names in kinds.items()]
    raise TypeError(
        f"the model cannot compute with numbers of these dtypes: {in_a_line(error)}. It is given "
        f"{'; '.join(told) or 'none'}, its latents are {latents or 'not reached'}, all others are "
        "made in the model or come from outside of it. Where they are made, type x = x.float(), or "
        "i = i.long() for an index, or torch.set_default_dtype(torch.float64) before anything else"
    ) from error
