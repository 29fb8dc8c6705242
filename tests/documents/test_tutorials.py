"""Each tutorial runs from a clean kernel, and what is committed of it is whole."""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "tutorials").glob("*.ipynb"))
SWITCH = "QUICK = False"  # what a reader would change for a look at every cell in little time


def opened(path):
    return nbformat.read(path, as_version=4)


def cells(path):
    return [cell for cell in opened(path).cells if cell.cell_type == "code"]


def outputs(path):
    return [output for cell in cells(path) for output in cell.outputs]


def test_the_tutorials_are_found():
    assert [path.stem[:2] for path in TUTORIALS] == ["01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_every_cell_runs(path):
    notebook = opened(path)
    switches = [cell for cell in notebook.cells if SWITCH in cell.source]
    assert len(switches) == 1
    switches[0].source = switches[0].source.replace(SWITCH, "QUICK = True")
    folder = {"metadata": {"path": path.parent}}
    client = nbclient.NotebookClient(notebook, timeout=240, resources=folder)
    client.execute(env=os.environ | {"PYTHONWARNINGS": "ignore"})


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_committed_outputs_are_of_one_whole_run(path):
    counts = [cell.execution_count for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(path) if output.output_type == "error"]
    assert not [output for output in outputs(path) if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_there_are_pictures(path):
    pictures = [output for output in outputs(path) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_says_where_it_leads_and_where_to_go_next(path):
    texts = [cell.source for cell in opened(path).cells if cell.cell_type == "markdown"]
    assert texts[0].startswith("# ")
    assert "After this tutorial you can" in texts[0]
    assert texts[-1].startswith("## What to read next")
