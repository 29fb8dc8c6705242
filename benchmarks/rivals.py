"""Is anything quicker, or nearer? Twelve posteriors by the default call of `fit`, and by others.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py FOLDER [FOLDER ...] --out OUT
        [--numpyro PYTHON] [--nutpie PYTHON] [--names N ...] [--methods M ...] [--limit SECONDS]

Folders are as for posteriors.py. NumPyro's NUTS is 4 x (1000 + 1000), nutpie 4 x (its own warm-up +
1000) of a PyMC model, Pyro's NUTS 4 x (1000 + 1000) or as far as it comes within the limit. Each
answer comes from a process of its own, on one core: cold, with nothing compiled and nothing of the
model on disk; where compiled code can be used again also warm, for a second data set of the same
shapes in the same process; and from disk, in a new process that finds what the first compiled.
Imports do not count, and what is compiled does.

`times ours` is the CPU time over that of `fit` of the same kind. Errors are as for posteriors.py;
for the second data set, which has no reference draws, those of `fit` are distances from nutpie's
draws. OUT keeps the answers: what is there is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rival_files import holder, module
from timing import table

NAMES = [
    *("eight_schools-eight_schools_noncentered", "eight_schools-eight_schools_centered"),
    *("arK-arK", "gp_pois_regr-gp_pois_regr", "diamonds-diamonds", "student_t2", "german_credit"),
    *("sonar", "horseshoe", "stochastic_volatility", "irt_2pl", "radon_hierarchical"),
]
METHODS = {  # the environment of each, and the words for its script, one process each
    "fit": ("pyro", ["fit", "disk"]),
    "NumPyro NUTS": ("numpyro", ["NUTS"]),
    "nutpie": ("nutpie", ["prime", "nutpie", "disk"]),
    "Pyro NUTS": ("pyro", ["NUTS"]),
}
GUIDES = {  # they have as many seconds as fit took, and are run where --methods names them
    "Pyro AutoMultivariateNormal": ("pyro", ["AutoMultivariateNormal"]),
    "Pyro AutoIAFNormal": ("pyro", ["AutoIAFNormal"]),
    "Pyro AutoNormalizingFlow": ("pyro", ["AutoNormalizingFlow"]),
    "NumPyro AutoIAFNormal": ("numpyro", ["AutoIAFNormal"]),
    "NumPyro AutoBNAFNormal": ("numpyro", ["AutoBNAFNormal"]),
}
KINDS = {"cold": "", "disk": ", from disk", "warm": ", second data"}
ERRORS = ["mean_worst", "log_sd_worst", "sw2", "sw2_floor"]
HEAD = ["posterior", "method", "CPU [s]", "wall [s]", "times ours"]
HEAD += ["mean", "log sd", "sw2", "floor", "note"]
CACHES = ["TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR"]


def command(python, rival, *words):
    """That starts the script of a rival."""
    script = Path(__file__).with_name(f"{rival}_rivals.py")
    return [str(word) for word in (python, script, *words)]


def answer(python, method, folder, name, seconds, out):
    """Runs a method in new processes, and puts what it says in its folder of OUT."""
    rival, words = (METHODS | GUIDES)[method]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as caches, tempfile.TemporaryDirectory(dir=out.parent) as to:
        found = Path(to) / "found"
        found.mkdir()
        environment = os.environ | dict.fromkeys(CACHES, caches)
        environment["PYTENSOR_FLAGS"] = f"base_compiledir={caches}"
        for word in words:
            line = command(python, rival, folder, name, word, seconds, found)
            done = subprocess.run(line, env=environment, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "Error" in line]
                last = ["it said nothing", *said][-1]
                failed = json.dumps({"note": f"failed: {last[:100]}"})
                (found / f"{'disk' if word == 'disk' else 'cold'}.json").write_text(failed)
                break
        found.rename(out)  # whole, or not at all


def stored(out, kind):
    """What an answer took, and its draws by site, if it has any."""
    if not (file := out / f"{kind}.json").exists():
        return {}, {}
    if not (draws := file.with_suffix(".npz")).exists():
        return json.loads(file.read_text()), {}
    with np.load(draws) as sites:
        return json.loads(file.read_text()), dict(sites)


def errors(folder, name, draws, reference=None):
    """Of draws, beside the reference draws of a posterior, or others."""
    load = module(folder, "load")
    _, draws_of_load = load.load(name)
    sites = draws_of_load.keys()
    reference = {site: reference[site] for site in sites} if reference else draws_of_load
    found = module(folder, "score").score(
        {site: draws[site] for site in sites}, reference, load.supports(name)
    )
    return [f"{found[key]:.3f}" for key in ERRORS]


def rows(folder, name, out):
    """The rows of one posterior, each with its ratio, from what is stored of it."""
    for method in METHODS | GUIDES:
        for kind, words in KINDS.items():
            told, draws = stored(out / method, kind)
            if not told:
                continue
            ours, _ = stored(out / "fit", kind)
            reference = stored(out / "nutpie", "warm")[1] if kind == "warm" else None
            row = [name, method + words, "", "", "", "", "", "", "", told["note"]]
            ratio = told["cpu"] / ours["cpu"] if "cpu" in told and "cpu" in ours else None
            if ratio:
                more = ">" if told["note"] else ""
                row[2:5] = f"{more}{told['cpu']:.2f}", f"{told['wall']:.2f}", f"{more}{ratio:.2f}"
            if draws and (kind != "warm" or (method == "fit" and reference)):
                row[5:9] = errors(folder, name, draws, reference)
            yield row, ratio


def means(found):
    """Of the ratios of each method: how many, their geometric mean, the least and the largest."""
    lines = [
        ["method", "posteriors", "stopped", "geometric mean of times ours", "least", "largest"]
    ]
    for method in dict.fromkeys(row[1] for row, ratio in found if ratio):
        ratios = np.array([ratio for row, ratio in found if row[1] == method and ratio])
        stopped = sum(row[2].startswith(">") for row, _ in found if row[1] == method)
        more = ">" if stopped else ""  # the ratios of what was stopped are at least so large
        numbers = np.exp(np.log(ratios).mean()), ratios.min(), ratios.max()
        line = [method, str(len(ratios)), str(stopped)]
        lines.append(line + [f"{more}{number:.2f}" for number in numbers])
    return table(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="a folder that keeps the answers")
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--numpyro", help="a Python interpreter that has NumPyro")
    parser.add_argument("--nutpie", help="a Python interpreter that has nutpie and PyMC")
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS | GUIDES)
    parser.add_argument("--limit", type=float, default=120, help="of Pyro's NUTS, seconds of CPU")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # one core for all that is started from here
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pythons = {"pyro": sys.executable, "numpyro": options.numpyro, "nutpie": options.nutpie}
    found = []
    for name in options.names:
        folder, out = holder(options.folders, name), options.out.resolve() / name
        for method in dict.fromkeys(["fit", *options.methods]):
            python = pythons[(METHODS | GUIDES)[method][0]]
            if python and not (out / method).exists():
                seconds = stored(out / "fit", "cold")[0].get("wall") if method in GUIDES else None
                answer(python, method, folder, name, seconds or options.limit, out / method)
        for row, ratio in rows(folder, name, out):
            found.append((row, ratio))
            print(" ".join(row), file=sys.stderr, flush=True)
    print(table([HEAD, *(row for row, _ in found)]))
    print("\n" + means(found))


if __name__ == "__main__":
    main()
