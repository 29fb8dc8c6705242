"""The posteriors of this folder: `model, draws = load("kilpisjarvi_mod-kilpisjarvi")`.

The draws are every fifth of the 10,000 that posteriordb has, of ten long runs of NUTS.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from pyro import poutine

HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location(f"{__name__}_models", HERE / "models.py")
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)


def names():
    """The posteriors, as dataset-function."""
    return sorted(path.stem for path in HERE.glob("draws/*.npz"))


def load(name, dtype=torch.float64):
    """The model of a posterior, and its reference draws of each site."""
    data = json.loads((HERE / "data" / f"{name}.json").read_text())
    data = {key: torch.tensor(value, dtype=dtype) for key, value in data.items()}
    with np.load(HERE / "draws" / f"{name}.npz") as file:
        draws = {site: torch.tensor(file[site], dtype=dtype) for site in file.files}
    return getattr(models, name.split("-")[1])(data), draws


def supports(name):
    """The support of each site."""
    model, draws = load(name)
    nodes = poutine.trace(model).get_trace().nodes
    return {site: nodes[site]["fn"].support for site in draws}
