"""The command line: ``pyro-nf fit``, ``pyro-nf flows`` and ``pyro-nf check``."""

import argparse
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.distributions import Transform

from pyro_nf.datafile import read_data
from pyro_nf.examples import EIGHT_SCHOOLS, Example, eight_schools
from pyro_nf.fitting import FitError, fit
from pyro_nf.flows import Flow, FlowSpec, flow_names, make_flow
from pyro_nf.posterior import Summary, components
from pyro_nf.randomness import seeded
from pyro_nf.testing import check_flow

__all__ = ["main"]

TABLE_DIM = 10  # at which the table counts parameters


class UsageError(Exception):
    """A command that cannot be run as it was typed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Arguments:
        argv: The command and its arguments; those of the process by default.

    Returns:
        0 if all is well, 1 if a fit fails or is poor or a flow breaks its contract, 2 if the
        command cannot be run.
    """
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except UsageError as error:
        print(f"pyro-nf: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pyro-nf", description="Normalizing flows for Pyro.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    fitted = commands.add_parser("fit", help="fit a posterior to a model and say how good it is")
    fitted.add_argument("target", metavar="FILE.py:MODEL", help="a model, or eight_schools")
    fitted.add_argument(
        "--data", type=Path, metavar="FILE", help="its arguments: .json, .csv, .npz"
    )
    fitted.add_argument("--flow", help='a formula such as "planar*8"; pyro-nf flows has the names')
    fitted.add_argument("--steps", type=int, help="the number of steps; by default what it takes")
    fitted.add_argument("--seconds", type=float, help="a limit on the time of the fit")
    fitted.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="whether Markov chains go on from the guide's draws; by default where these are off",
    )
    fitted.add_argument("--seed", type=int, help="for the same result each time")
    fitted.add_argument("--out", type=Path, metavar="FILE", help="save: .nc for ArviZ, .pt to load")
    fitted.add_argument("--plot", type=Path, metavar="PNG", help="draw the pairs of the posterior")
    fitted.add_argument("--report", type=Path, metavar="HTML", help="write a page about it")
    fitted.add_argument("--quiet", action="store_true", help="no progress bar")
    fitted.set_defaults(run=_fit)

    flows = commands.add_parser("flows", help="list the flows that a formula may name")
    flows.set_defaults(run=_flows)

    check = commands.add_parser("check", help="check that your own flow keeps its contract")
    check.add_argument("target", metavar="FILE.py:Class", help="a flow or transform class")
    check.add_argument("--dim", type=int, nargs="+", default=[1, 2, 5], help="dimensions")
    check.add_argument("--context-dim", type=int, nargs="+", default=[0, 3], help="context sizes")
    check.set_defaults(run=_check)
    return parser


def _fit(args: argparse.Namespace) -> int:
    """Fit, print the posterior and the verdict, save and draw what was asked for."""
    kinds = (args.out, (".nc", ".pt")), (args.plot, (".png", ".pdf", ".svg"))
    for path, endings in (*kinds, (args.report, (".html",))):
        if path and path.suffix not in endings:
            raise UsageError(f"expected a name that ends in {' or '.join(endings)}, got {path}")
        if path and not path.absolute().parent.is_dir():
            raise UsageError(f"there is no folder {path.absolute().parent}")
    if args.target == "eight_schools":
        if args.data:
            raise UsageError("eight_schools has its own data")
        args.seed = 0 if args.seed is None else args.seed  # an example shows the same to everybody
        with seeded(args.seed):
            return _fit_model(args, eight_schools, EIGHT_SCHOOLS.data, {}, EIGHT_SCHOOLS)
    file, name = _split(args.target, "MODEL")
    with _imported(Path(file)) as module:
        model = getattr(module, name, None)
        if not callable(model):
            what = f"{name} is {model!r}" if hasattr(module, name) else f"there is no {name}"
            raise UsageError(f"{what} in {file}; expected a Pyro model")
        try:
            data = read_data(args.data, model) if args.data else {}
        except ValueError as error:
            raise UsageError(str(error)) from error
        with seeded(args.seed):
            return _fit_model(args, model, (), data, None)


def _fit_model(
    args: argparse.Namespace,
    model: Callable[..., Any],
    data: tuple[Any, ...],
    named: dict[str, Any],
    reference: Example | None,
) -> int:
    options = {n: getattr(args, n) for n in ("flow", "steps", "seconds", "seed", "refine")}
    try:
        posterior = fit(model, *data, **named, **options, progress=not args.quiet)
    except (FitError, ValueError, TypeError) as error:
        print(f"pyro-nf: {error}", file=sys.stderr)
        return 1
    summary, diagnosis = posterior.summary(), posterior.diagnose()
    print(summary if reference is None else _compared(summary, reference))
    print(f"\n{posterior.message}\n{diagnosis}")
    if args.out and args.out.suffix == ".nc":
        posterior.to_arviz().to_netcdf(args.out)
    elif args.out:
        posterior.save(args.out)
    if args.plot:
        posterior.plot("pairs").savefig(args.plot)
    if args.report:
        posterior.report(args.report)
    return int(diagnosis.verdict == "poor")


def _compared(summary: Summary, reference: Example) -> Summary:
    """A summary with the reference's mean and sd beside its own."""
    parts = [torch.stack([reference.mean[s], reference.sd[s]], -1) for s in reference.mean]
    names = [row for s in reference.mean for row in components(s, reference.mean[s].shape)]
    table = dict(zip(names, torch.cat([part.reshape(-1, 2) for part in parts]), strict=True))
    added = torch.stack([table[row] for row in summary.rows]).double()
    columns = (*summary.columns, "MCMC mean", "MCMC sd")
    return Summary(summary.rows, columns, torch.cat([summary.values, added], -1))


def _split(target: str, what: str) -> tuple[str, str]:
    """The file and the name of FILE.py:NAME."""
    file, colon, name = target.rpartition(":")
    if not (colon and file.endswith(".py") and name):
        raise UsageError(f"expected FILE.py:{what}, got {target!r}")
    return file, name


def _flows(args: argparse.Namespace) -> int:
    """Print a table of the registered flows."""
    rows: list[tuple[str, ...]] = [("flow", "class", f"parameters, D={TABLE_DIM}", "inverse", "")]
    with torch.random.fork_rng(devices=[]):
        for name in flow_names():
            flow = make_flow(name, TABLE_DIM)
            count = sum(parameter.numel() for parameter in flow.parameters())
            row = name, type(flow).__name__, f"{count:,}", "yes" if _inverts(flow) else "no"
            rows.append((*row, _first_sentence(type(flow))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        print("  ".join(padded).rstrip())
    return 0


def _inverts(flow: Flow) -> bool:
    try:
        flow.inverse_and_log_det(torch.zeros(flow.dim))
    except NotImplementedError:
        return False
    return True


def _first_sentence(cls: type) -> str:
    paragraph = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0]


def _check(args: argparse.Namespace) -> int:
    """Print what check_flow says of a class, for all dimensions and context sizes."""
    if min(args.dim) < 1 or min(args.context_dim) < 0:
        raise UsageError("--dim must be 1 or more, and --context-dim 0 or more")
    file, name = _split(args.target, "Class")
    broken = False
    with _imported(Path(file)) as module:
        cls = getattr(module, name, None)
        if not (isinstance(cls, type) and issubclass(cls, Transform)):
            what = f"is {cls!r}" if hasattr(module, name) else "does not exist"
            raise UsageError(f"{name} in {file} {what}; expected a class of Flow or Transform")
        for dim in args.dim:
            for context_dim in args.context_dim if issubclass(cls, Flow) else [0]:
                try:
                    print(check_flow(_flow_spec(cls), dim, context_dim=context_dim))
                except Exception as error:  # ValueError names what is broken, others are too
                    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                    print(f"{kind}{error}" if error.args else kind)
                    broken = True
    return int(broken)


def _flow_spec(cls: type[Transform]) -> FlowSpec:
    """The class, for `make_flow` to call; an instance if nothing but a cache can be asked of it."""
    first = next(iter(inspect.signature(cls).parameters), "cache_size")
    return cls() if first == "cache_size" else cls


@contextmanager
def _imported(file: Path) -> Iterator[ModuleType]:
    """The module in a file; until the block ends it and its neighbours can be imported."""
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    for module in list(sys.modules.values()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin).resolve() == file.resolve():
            yield module  # a file of an imported package, which would not bear a second import
            return
    name = "checked_" + re.sub(r"\W", "_", file.stem)  # a stem such as `torch` must hide nothing
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # for a name in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder, path, before = file.resolve().parent, [*sys.path], dict(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules[name] = module  # where pickle looks for the class
    try:
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise UsageError(f"cannot import {file}: {type(error).__name__}: {error}") from error
        yield module
    finally:
        sys.path[:] = path
        for key, other in list(sys.modules.items()):
            origin = getattr(other, "__file__", None)
            if key not in before and origin and Path(origin).parent == folder:
                del sys.modules[key]
        sys.modules.update({name: before[name]} if name in before else {})
