"""The commands of `pyro-nf`, as a shell would call them."""

import subprocess
import sys
import textwrap

import pytest
import torch

from pyro_nf import Posterior, flow_names
from pyro_nf.cli import main
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.flows import formula as registry
from pyro_nf.flows import planar

SHEAR = """
    import torch
    from torch.distributions import constraints, transforms
    import pyro_nf
    from neighbour import slope

    def bend(x):
        return slope * torch.tanh(x)

    @pyro_nf.register("cli_shear")
    class Shear(pyro_nf.Flow):
        def __init__(self, dim, context_dim=0):
            super().__init__(dim, context_dim)
            self.params = pyro_nf.Params(context_dim, v=(dim,), b=())
            self.bend = bend  # pickled by its name, so its module must be found

        def forward_and_log_det(self, x, context=None):
            v, b = self.params(context)
            v = torch.cat([torch.zeros_like(v[..., :1]), v[..., 1:]], -1)
            return x + self.bend(x[..., :1] + b.unsqueeze(-1)) * v, x.new_zeros((x + v).shape[:-1])

    class Broken(Shear):
        def forward_and_log_det(self, x, context=None):
            y, log_det = super().forward_and_log_det(x, context)
            return 2 * y, log_det

    class NoContext(Shear):
        def __init__(self, dim):
            super().__init__(dim)

    class Double(transforms.AffineTransform):
        def __init__(self, cache_size=0):
            super().__init__(0.0, 2.0, cache_size=cache_size)

    class Shift(transforms.Transform):
        domain = codomain = constraints.real_vector
        bijective = True

        def __init__(self, dim):
            super().__init__()
            self.shift = torch.ones(dim)

        def _call(self, x):
            return x + self.shift

        def log_abs_det_jacobian(self, x, y):
            return x.new_zeros(x.shape[:-1])

    number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_FLOWS", dict(registry._FLOWS))  # the file registers a flow
    (tmp_path / "neighbour.py").write_text("slope = 0.5\n")
    path = tmp_path / "my-shear.py"
    path.write_text(textwrap.dedent(SHEAR))
    return str(path)


def test_flows_prints_a_row_for_each(capsys):
    state = torch.get_rng_state()
    assert main(["flows"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["flow", "class", "parameters,", "D=10", "inverse"]
    assert [row.split()[0] for row in rows] == flow_names()
    planar = next(row for row in rows if row.startswith("planar"))
    assert planar.split()[1:4] == ["Planar", "21", "yes"]
    assert "space is stretched along one direction" in planar
    assert planar.endswith(".")


def test_check_prints_a_report_for_each_dim_and_context(file, capsys):
    assert main(["check", f"{file}:Shear", "--dim", "2", "5", "--context-dim", "0", "3"]) == 0
    out = capsys.readouterr().out
    titles = [line for line in out.splitlines() if line.endswith("keeps the contract")]
    assert titles == [
        "Shear with dim=2 keeps the contract",
        "Shear with dim=2 and context_dim=3 keeps the contract",
        "Shear with dim=5 keeps the contract",
        "Shear with dim=5 and context_dim=3 keeps the contract",
    ]
    assert out.count("params.v (1 of ") == 4  # its first element moves nothing


def test_check_defaults(file, capsys):
    assert main(["check", f"{file}:Shear"]) == 0
    assert capsys.readouterr().out.count("keeps the contract") == 6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Broken", "Broken with dim=2 breaks the contract of a flow:\n- log-det: off by"),
        ("NoContext", "TypeError: "),
    ],
)
def test_check_of_a_broken_flow(file, capsys, name, said):
    assert main(["check", f"{file}:{name}", "--dim", "2"]) == 1
    out, err = capsys.readouterr()
    assert said in out
    assert err == ""


@pytest.mark.parametrize("name", ["Double", "Shift"])
def test_check_of_a_plain_transform(file, capsys, name):
    assert main(["check", f"{file}:{name}", "--dim", "1", "3"]) == 0
    assert capsys.readouterr().out.count("keeps the contract") == 2  # no context for a transform


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{file}:number", "number in {file} is 3; expected a class of Flow or Transform"),
        ("{file}:torch", "expected a class of Flow or Transform"),
        ("{file}:slope", "slope in {file} is 0.5"),
        ("{file}:Sheer", "Sheer in {file} does not exist"),
        ("{file}", "expected FILE.py:Class, got"),
        ("{file}:", "expected FILE.py:Class, got"),
        ("shear:Shear", "expected FILE.py:Class, got"),
        ("nowhere.py:Shear", "there is no file nowhere.py"),
        ("{bad}:Shear", "cannot import {bad}: SyntaxError"),
        ("{leaves}:Shear", "cannot import {leaves}: SystemExit: 5"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(file, tmp_path, capsys, target, said):
    names = {"file": file, "bad": tmp_path / "bad.py", "leaves": tmp_path / "leaves.py"}
    names["bad"].write_text("def f(:\n")
    names["leaves"].write_text("raise SystemExit(5)\n")
    assert main(["check", target.format(**names)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pyro-nf: ")
    assert said.format(**names) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options", [["--dim", "0"], ["--context-dim", "-1"], ["--dim", "1", "-2"]], ids=str
)
def test_sizes_out_of_range(file, capsys, options):
    assert main(["check", f"{file}:Shear", *options]) == 2
    assert "--dim must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["chek"], ["check"], ["check", "a.py:A", "--dim", "x"]])
def test_what_argparse_refuses(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: pyro-nf" in capsys.readouterr().err


def test_imports_leave_nothing_behind(file):
    path = list(sys.path)
    main(["check", f"{file}:Shear", "--dim", "2", "--context-dim", "0"])
    assert sys.path == path
    assert [name for name in sys.modules if "my_shear" in name or name == "neighbour"] == []


def test_check_of_a_file_of_ours(capsys):
    assert main(["check", f"{planar.__file__}:Planar", "--dim", "2", "--context-dim", "0"]) == 0
    assert capsys.readouterr().out.startswith("Planar with dim=2 keeps the contract")


def test_a_file_named_as_a_library_hides_nothing(tmp_path, capsys):
    (tmp_path / "torch.py").write_text("import pyro_nf\nclass Mine(pyro_nf.flows.Planar): pass\n")
    assert main(["check", f"{tmp_path / 'torch.py'}:Mine", "--dim", "2"]) == 0
    assert sys.modules["torch"] is torch


def test_the_installed_command(file):
    command = [sys.executable, "-c", "import sys; from pyro_nf.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "check", f"{file}:Broken", "--dim", "2"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "breaks the contract" in done.stdout
    assert done.stderr == ""


def test_a_refined_fit_is_saved_as_it_was_judged(tmp_path, capsys):
    path, page = tmp_path / "posterior.pt", tmp_path / "posterior.html"
    argv = ["fit", "eight_schools", "--steps", "30", "--refine", "--quiet", "--out", str(path)]
    assert main([*argv, "--report", str(page)]) == 0
    assert "Posterior of eight_schools" in page.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "refined by 1024 chains" in printed
    assert "\ngood: " in printed
    loaded = Posterior.load(path, eight_schools, *EIGHT_SCHOOLS.data)
    assert str(loaded.refinement) in printed
