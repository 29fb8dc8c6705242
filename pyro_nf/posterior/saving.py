"""What a file keeps of a posterior, and how guide and parameters come back out of it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from torch import Tensor, nn

from pyro_nf.checks import instance, runnable
from pyro_nf.files import VERSION, read
from pyro_nf.guides import AutoFlowGuide, FlowGuide
from pyro_nf.model import patiently, sites
from pyro_nf.model import read as read_data
from pyro_nf.posterior.corrected import Corrected, kept_draws
from pyro_nf.posterior.diagnosis import Diagnosis
from pyro_nf.posterior.joint import Joint, is_latent
from pyro_nf.posterior.labels import Labels
from pyro_nf.posterior.refinement import Refinement
from pyro_nf.randomness import kept_random_state

__all__ = ["pack", "unpacked"]

KIND = "posterior"
FORMAT = 1

Shapes = dict[str, tuple[int, ...]]


def pack(
    joint: Joint,
    losses: Tensor,
    ended: str,
    moving: Sequence[str] = (),
    refinement: Corrected | Refinement | None = None,
    diagnosis: Diagnosis | None = None,
    labels: Labels | None = None,
) -> dict[str, Any]:
    """Tensors and JSON from which :func:`unpacked` makes guide and parameters again."""
    guide, model = joint.guide, joint.model
    own = {
        id(p) for part in (guide, model) if isinstance(part, nn.Module) for p in part.parameters()
    }
    header = {
        "format": FORMAT,
        "version": VERSION,
        "guide": type(guide).__name__,
        "flow": None,
        "sites": {name: list(latent.shape) for name, latent in joint.latents.items()},
        "hidden": sorted(joint.enumerated | joint.from_prior),
        "ended": ended,
        "moving": list(moving),
        "diagnosis": None if diagnosis is None else diagnosis.content(),
        "labels": asdict(labels or Labels()),
    }
    if isinstance(guide, FlowGuide):
        header |= {"flow": guide.formula, "name": guide.prefix, "keywords": guide.keywords}
    params = joint.parameters["params"]
    return {
        "kind": KIND,
        "header": json.dumps(header),
        "guide": _state(guide),
        "model": _state(model),
        "store": {n: p.detach().cpu() for n, p in params.items() if id(p) not in own},
        "losses": losses,
        "refinement": None if refinement is None else refinement.content(),
    }


def _state(part: Callable[..., Any]) -> dict[str, Tensor]:
    if not isinstance(part, nn.Module):
        return {}
    return {name: value.detach().cpu() for name, value in part.state_dict().items()}


@contextmanager
def unpacked(
    path: str | os.PathLike[str],
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """A guide, and what else a posterior knows, out of a file.

    Within the block, the parameters are in place. Afterwards those that belong to no module are in
    Pyro's parameter store, too, unless it has others of their name.
    """
    runnable("model", model)
    instance("guide", guide, "model")
    args, kwargs = read_data(model, args, kwargs)
    content = read(path, KIND)
    where = repr(os.fspath(path))
    header = _header(content, where)
    store = pyro.get_param_store()
    with store.scope() as state:
        with kept_random_state(), torch.no_grad():
            _compare_sites(header, _latents(model, args, kwargs), where)
            guide = _new_guide(header, model, where) if guide is None else guide
            if type(guide).__name__ != header["guide"]:
                raise ValueError(
                    f"{where} was saved with a guide of the type {header['guide']}, and got "
                    f"{type(guide).__name__}; give one that is made as the saved one was"
                )
            poutine.replay(model, poutine.trace(guide).get_trace(*args, **kwargs))(*args, **kwargs)
        for name, part in (("guide", guide), ("model", model)):
            _fill_module(name, part, content[name], where)
        _fill_store(content["store"], where)
        # Files of older versions have not all of it.
        saved = {"losses": content["losses"], "ended": header.get("ended", "")}
        saved["moving"] = tuple(header.get("moving", ()))
        saved["diagnosis"] = Diagnosis.of(header.get("diagnosis"))
        if "labels" in header:
            saved["labels"] = Labels(**header["labels"])
        saved["refinement"] = kept_draws(content.get("refinement"))
        yield guide, saved
    known = set(store.keys())
    new = [name for name in content["store"] if name not in known]
    store.set_state({key: {n: value[n] for n in new} for key, value in state.items()})


def _header(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(content["header"])
    if header["format"] != FORMAT:
        raise ValueError(
            f"{where} has the format {header['format']} of pyro_nf {header['version']}; this is "
            f"pyro_nf {VERSION}, which reads the format {FORMAT}: install the other "
            "version, or fit again"
        )
    return header


def _latents(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Shapes:
    run = InitMessenger(sites.feasible(init_to_sample))(model)
    nodes = patiently(lambda: poutine.trace(run).get_trace(*args, **kwargs)).nodes
    return {name: tuple(n["value"].shape) for name, n in nodes.items() if is_latent(n)}


def _compare_sites(header: Mapping[str, Any], here: Shapes, where: str) -> None:
    saved = {name: tuple(shape) for name, shape in header["sites"].items()}
    hidden = set(header["hidden"])
    wrong = [
        f"{name!r} is {_said(saved.get(name))} in the file and {_said(here.get(name))} in the model"
        for name in [*saved, *(here.keys() - saved.keys() - hidden)]
        if saved.get(name) != here.get(name)
    ]
    if wrong:
        raise ValueError(
            f"{where} was saved for another model, or for data of another size: "
            f"{'; '.join(wrong)}. Type Posterior.load(path, model, *args) with the model and the "
            "arguments that the posterior was made with"
        )


def _said(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"


def _new_guide(header: Mapping[str, Any], model: Callable[..., Any], where: str) -> AutoFlowGuide:
    if header["flow"] is None:
        raise ValueError(
            f"{where} was saved with a guide that no formula describes, of the type "
            f"{header['guide']}; make it as then: Posterior.load(path, model, *args, guide=guide)"
        )
    if header["hidden"]:
        model = poutine.block(model, hide=header["hidden"])
    name = None if header["name"] == header["guide"] else header["name"]
    keywords = header.get("keywords") or {}  # files of 0.1 have none
    return AutoFlowGuide(model, header["flow"], name=name, **keywords)


def _fill_module(
    name: str, part: Callable[..., Any], state: Mapping[str, Tensor], where: str
) -> None:
    if not isinstance(part, nn.Module):
        return
    try:
        part.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(
            f"the {name} has other parameters than {where} holds of it: {error}"
        ) from error


@torch.no_grad()
def _fill_store(saved: Mapping[str, Tensor], where: str) -> None:
    store = pyro.get_param_store()
    for name, value in saved.items():
        if name not in store:
            raise ValueError(
                f"{where} holds a parameter {name!r}, which neither model nor guide has; it was "
                "saved for others"
            )
        parameter = store[name].unconstrained()
        if parameter.shape != value.shape:
            raise ValueError(
                f"the parameter {name!r} has shape {tuple(value.shape)} in {where} and "
                f"{tuple(parameter.shape)} here"
            )
        parameter.copy_(value)
