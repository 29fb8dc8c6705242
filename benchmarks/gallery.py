"""Models of the galleries of Pyro, NumPyro, Stan and textbooks, as their authors write them.

    OMP_NUM_THREADS=1 python benchmarks/gallery.py [NAME ...] [--seed 0]
    OMP_NUM_THREADS=1 python benchmarks/gallery.py [NAME ...] --reference [--numpyro PYTHON
        [--long]]

Each of `gallery_models` is fitted by the default call. `mean` is the error of the worst mean, in
standard deviations of the reference, and `log sd` that of a log standard deviation, of
unconstrained coordinates, or of what the model's entry says where names can be exchanged. A
model is refused where the package says so in a sentence; what anything else raises is a fault.
Seconds are of CPU, which other processes do not change much: those of `fit`, diagnosis left out.

The references are in `gallery_models/references.json`, which `--reference` writes: quadrature of
up to two numbers, for more of them chains from many starts (`gallery_chains.py`) or NumPyro's NUTS,
4 x (1000 + 1000), where the model is easily said in it and the option names an interpreter that
has NumPyro. Its seconds are kept, compile time included. With `--long` the moments are of longer
chains alone, 8 x (2000 + 2500) of smaller steps, for models on which the others do not mix.
"""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from gallery_chains import as_tensors, of_nuts, reference, unconstrained
from gallery_models import ALL, Written
from timing import table
from torch import Tensor

import pyro_nf
from pyro_nf import Posterior, fit

DRAWS = 10_000
FAR = 0.15  # standard deviations, or of a log of one, from which an answer is wrong
HEAD = ["model", "D", "verdict", "mean", "log sd", "vectorized", "seconds", "NUTS [s]"]
HERE = Path(__file__).parent
REFERENCES, NUMPYRO = HERE / "gallery_models" / "references.json", HERE / "gallery_numpyro.py"
SAID = [NUMPYRO, HERE / "gallery_numpyro_sums.py"]
PACKAGE = Path(pyro_nf.__file__).parent

Moments = dict[str, list[list[float]]]


def stored() -> dict[str, dict[str, Any]]:
    return json.loads(REFERENCES.read_text()) if REFERENCES.exists() else {}


def numbers(written: Written, posterior: Posterior) -> dict[str, Tensor]:
    """What is compared, of draws of a posterior, each ``(draws, n)``."""
    draws = posterior.draws(DRAWS)
    draws = {
        n: value.double() if value.is_floating_point() else value for n, value in draws.items()
    }
    if written.numbers:
        found = written.numbers(draws)
    else:
        found = unconstrained(written.model, written.args, written.kwargs, draws)
    return {
        name: value.flatten(1) if value.dim() > 1 else value[:, None]
        for name, value in found.items()
    }


def errors(found: dict[str, Tensor], moments: Moments) -> tuple[float, float]:
    """Of the worst mean, in standard deviations, and of the worst log standard deviation."""
    worst_mean = worst_sd = 0.0
    common = found.keys() & moments.keys()
    if not common:
        raise KeyError(f"nothing to compare: {sorted(found)} and {sorted(moments)}")
    for name in common:
        mean, sd = torch.tensor(moments[name], dtype=torch.float64)
        worst_mean = max(worst_mean, float(((found[name].mean(0) - mean) / sd).abs().max()))
        worst_sd = max(worst_sd, float((found[name].std(0) / sd).log().abs().max()))
    return worst_mean, worst_sd


def refusal(error: Exception) -> str | None:
    """The sentence with which the package has refused a model; None if something else failed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(frames[-1].filename).is_relative_to(PACKAGE)
    return (
        str(error) if own and isinstance(error, ValueError | TypeError | pyro_nf.FitError) else None
    )


def row(name: str, seed: int, moments: Moments | None) -> tuple[list[str], str]:
    """The cells of a model but for the last, and what is to be said below the table."""
    pyro.clear_param_store()
    written = ALL[name]()
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            posterior = fit(
                written.model, *written.args, seed=seed, progress=False, **written.kwargs
            )
        except Exception as error:
            said = refusal(error)
            what = "refused" if said else "RAISED"
            text = said or f"{type(error).__name__}: {error}"
            return [name, "", what, "", "", "", f"{time.process_time() - start:.1f}"], text
    seconds = time.process_time() - start
    torch.manual_seed(seed)
    verdict = posterior.diagnose().verdict
    if written.refused:
        verdict += ", NOT REFUSED"
    cells = ["", ""]
    if moments:
        mean, log_sd = errors(numbers(written, posterior), moments)
        cells = [f"{mean:.3f}", f"{log_sd:.3f}"]
        if max(mean, log_sd) > FAR:
            verdict += ", WRONG" if verdict == "good" else ", off"
    dim = getattr(posterior.guide, "latent_dim", "")
    together = "yes" if posterior.vectorized else "no"
    said = "; ".join(dict.fromkeys(str(warning.message) for warning in caught))
    return [name, str(dim), verdict, *cells, together, f"{seconds:.1f}"], said


def has_nuts(name: str) -> bool:
    """Whether the model is said for NumPyro."""
    return any(f"\ndef {name}(" in path.read_text() for path in SAID)


def nuts(python: str, name: str, *options: str) -> tuple[float, dict[str, np.ndarray]]:
    """The seconds of NumPyro's NUTS on a model, and its draws."""
    written = ALL[name]()
    data = [as_tensors(value).numpy() for value in (*written.args, *written.kwargs.values())]
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "data", Path(folder) / "draws.npz"
        file.write_bytes(pickle.dumps(data))
        command = [python, str(NUMPYRO), name, str(file), str(out), *options]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        with np.load(out) as draws:
            return float(done.stdout), dict(draws)


def joined(first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, Any]:
    """Two references, of which the second is nearer."""
    if first is None:
        return second
    how = f"{second['how']}; for the rest {first['how']}"
    return first | {"how": how, "moments": first["moments"] | second["moments"]}


def write_references(names: list[str], seed: int, python: str | None, long: bool) -> None:
    """The references of models, by NumPyro's NUTS where it has the model and is there."""
    torch.set_default_dtype(torch.float64)
    for name in names:
        written = ALL[name]()
        if written.refused:
            continue
        found = None
        if python and has_nuts(name):
            seconds, draws = nuts(python, name)
            if long:
                _, draws = nuts(python, name, "--long")
            found = of_nuts(written, draws) | {"seconds": seconds}
        if found is None or (written.twin and not long):
            found = joined(found, reference(written, seed))
        print(f"{name}: {found['how']}", file=sys.stderr, flush=True)
        REFERENCES.write_text(json.dumps({**stored(), name: found}, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(ALL), metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", action="store_true", help="write the reference moments")
    parser.add_argument("--numpyro", help="a Python interpreter that has NumPyro")
    parser.add_argument("--long", action="store_true", help="NUTS of more and longer chains")
    options = parser.parse_args()
    unknown = sorted({*options.names} - {*ALL})
    if unknown:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(ALL)}")
    torch.set_num_threads(1)
    if options.reference:
        write_references(options.names, options.seed, options.numpyro, options.long)
        return
    rows, notes = [HEAD], []
    for name in options.names:
        cells, said = row(name, options.seed, stored().get(name, {}).get("moments"))
        seconds = stored().get(name, {}).get("seconds")
        rows.append([*cells, f"{seconds:.1f}" if seconds else ""])
        notes += [f"{name}: {said}"] if said else []
        print(" ".join(rows[-1]), said[:300], file=sys.stderr, flush=True)
    print(table(rows))
    print("", *notes, sep="\n")


if __name__ == "__main__":
    main()
