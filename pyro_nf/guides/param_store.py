"""A guide's entries in Pyro's parameter store: their names, and whose tensors they are."""

import itertools

import pyro
import torch
from pyro.params.param_store import param_with_module_name
from torch import nn

__all__ = ["adopt", "unique_name"]

_instances = itertools.count()


def unique_name(prefix: str) -> str:
    """A name that no other guide of this process has; the first is the prefix itself."""
    number = next(_instances)
    return f"{prefix}_{number}" if number else prefix


def adopt(module: nn.Module, prefix: str) -> None:
    """Take over what Pyro's parameter store keeps under a prefix for a module.

    After the store has been loaded, or for a second guide of one name, Pyro would train the
    tensors in the store, of which the module knows nothing.
    """
    store = pyro.get_param_store()
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue  # frozen: Pyro has no entry for it
        name = param_with_module_name(prefix, key)
        if name not in store or store[name] is parameter:
            return  # as it is for the first, so it is for all
        value = store[name]
        if value.shape != parameter.shape:
            raise ValueError(
                f"Pyro's parameter store keeps {name!r} with shape {tuple(value.shape)}, but "
                f"this guide needs {tuple(parameter.shape)}; it is another guide's: type "
                "pyro.clear_param_store(), or give this guide a name of its own"
            )
        with torch.no_grad():
            parameter.copy_(value)
        del store[name]  # Pyro puts the parameter itself there
