"""Whatever is public has an example, which the doctests run, and the API page can be made."""

import inspect
import subprocess
import sys

import pytest

import pyro_nf
from pyro_nf import examples, flows, plots, testing
from pyro_nf.posterior import diagnosis, summary

MODULES = [pyro_nf, flows, plots, testing]
RETURNED = [diagnosis.Diagnosis, summary.Summary, examples.eight_schools]
PUBLIC = {getattr(module, name) for module in MODULES for name in module.__all__}
PUBLIC = {thing for thing in PUBLIC if not inspect.ismodule(thing)} - {plots.draw} | {*RETURNED}
PUBLIC = sorted(PUBLIC, key=lambda thing: thing.__name__)


@pytest.mark.parametrize(
    "thing", sorted(PUBLIC, key=lambda x: x.__name__), ids=lambda x: x.__name__
)
def test_it_has_an_example(thing):
    assert "Example:\n" in (inspect.getdoc(thing) or "")
    assert ">>>" in thing.__doc__


def test_the_page_can_be_made(tmp_path):
    pytest.importorskip("pdoc")
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "--math", "-o", str(tmp_path)]
    subprocess.run([*command, "pyro_nf"], check=True, capture_output=True)
    page = (tmp_path / "pyro_nf.html").read_text()
    assert all(f'id="{name}"' in page for name in ("AutoFlowGuide", "fit", "Posterior"))
