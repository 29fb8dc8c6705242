"""Who may import whom, and what importing the package must leave as it is."""

import subprocess
import sys

CHECK = """
import sys
import warnings

import pyro
import torch
import torch.distributions


def state():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "random state": torch.get_rng_state().tolist(),
        "validation of torch": torch.distributions.Distribution._validate_args,
        "validation of pyro": pyro.infer.util.is_validation_enabled(),
        "settings of pyro": {key: repr(value) for key, value in pyro.settings.get().items()},
        "parameter store": list(pyro.get_param_store()),
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "warnings": list(warnings.filters),
        "transform methods": sorted(vars(torch.distributions.Transform)),
    }


warnings.simplefilter("error")
before = state()
import pyro_nf
after = state()
assert before == after, [key for key in before if before[key] != after[key]]
loaded = {"arviz", "matplotlib", "pandas", "zuko", "torchdiffeq"} & set(sys.modules)
assert not loaded, loaded
"""


def test_import_leaves_everything_as_it_is():
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
