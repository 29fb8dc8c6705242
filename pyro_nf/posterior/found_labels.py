"""What the arguments of a model tell of its dimensions: a pandas index, coordinates of xarray."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_nf.model import as_tensors, is_array
from pyro_nf.posterior.joint import Joint
from pyro_nf.posterior.labels import Label, Labels, plain

__all__ = ["found"]


def found(joint: Joint, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Labels:
    """The plates of a model, and what a pandas index or the coordinates of xarray tell of them.

    An index tells of the dimension that has its name, and of the dimensions of an observed site
    whose data it belongs to; wherever else it has the same length, that may be by accident. One
    that counts from zero, or has something twice, tells nothing.

    Arguments:
        joint: The model.
        args: What it takes, as the user gave it.
        kwargs: What it takes, as the user gave it.
    """
    labels = Labels(joint.dims)
    shapes = {name: tuple(value.shape) for name, value in joint.observed.items()}
    sizes = labels.sizes(shapes | {n: tuple(v.shape) for n, v in joint.latents.items()})
    coords: dict[str, tuple[Label, ...]] = {}
    for value in (*args, *kwargs.values()):
        axes = list(_axes(value)) if is_array(value) else []
        if not any(places for _, places in axes):
            continue
        for name, places in axes:
            if places and sizes.get(name) == len(places):
                coords.setdefault(name, places)
        for site in _observed_as(joint, value):
            for name, (_, places) in zip(labels.of(site, shapes[site]), axes, strict=True):
                if places:
                    coords.setdefault(name, places)
    return Labels(joint.dims, coords)


def _observed_as(joint: Joint, value: Any) -> Iterator[str]:
    """The observed sites whose data an argument is."""
    try:
        data = as_tensors("data", value)
    except TypeError:  # a data frame of which the model takes some columns
        return
    for site, seen in joint.observed.items():
        alike = isinstance(data, Tensor) and data.shape == seen.shape
        if alike and torch.allclose(data.double(), seen.double().cpu(), equal_nan=True):
            yield site


def _axes(value: Any) -> Iterator[tuple[str, tuple[Label, ...]]]:
    """For each dimension of an array its name, and the labels of its places, if it has any."""
    if hasattr(value, "dims") and hasattr(value, "coords"):  # of xarray
        for name in value.dims:
            yield str(name), _told(value.coords[name].values) if name in value.coords else ()
        return
    for index in (getattr(value, name, None) for name in ("index", "columns")):
        if index is not None and hasattr(index, "nlevels"):  # of pandas
            yield str(index.name), _told(index) if index.nlevels == 1 else ()


def _told(places: Any) -> tuple[Label, ...]:
    """Labels that tell more than a count does."""
    labels = tuple(map(plain, places))
    counts = labels == tuple(range(len(labels)))
    return () if counts or len(set(labels)) < len(labels) else labels
