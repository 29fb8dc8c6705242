"""Files of a run: of this one or refused, and due now and then."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_nf import fit
from pyro_nf.fitting.checkpoint import Checkpoint
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.schedule import Schedule
from pyro_nf.fitting.state import State


def model():
    pyro.sample("x", dist.Normal(0.0, 1.0))


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "run"
    assert Checkpoint(path, "mine").load() is None
    Checkpoint(path, "mine").save({"losses": [1.0]})
    assert Checkpoint(path, "mine").load()["losses"] == [1.0]
    with pytest.raises(ValueError, match=r"of another fit: it was made with mine, .* has yours"):
        Checkpoint(path, "yours").load()


def test_a_run_without_a_path_is_never_due():
    nowhere = Checkpoint(None, "")
    nowhere.save({})
    assert not nowhere.is_due(0.0)
    assert nowhere.load() is None


def test_it_is_due_some_time_after_the_last(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run", "")
    assert checkpoint.is_due(-1.0)
    assert not checkpoint.is_due(60.0)


def test_a_state_comes_back_from_a_file(tmp_path):
    state = State(
        schedule=Schedule.of(RECIPE, 0.1, None, 30),
        order=7,
        first=torch.zeros(3),
        best=torch.ones(3),
        sum=torch.full((3,), 2.0),
        losses=[3.0, float("inf")],
    )
    state.schedule.advance(to_last=True)
    checkpoint = Checkpoint(tmp_path / "run", "")
    checkpoint.save({"state": state.content()})
    found = State.of(checkpoint.load()["state"], RECIPE)
    assert found.schedule == state.schedule
    assert found.losses == state.losses
    assert torch.equal(found.best, state.best)


def test_a_checkpoint_of_an_older_format_is_refused(tmp_path, monkeypatch):
    options = {"guide": AutoNormal(model), "steps": 20, "seed": 0, "progress": False}
    monkeypatch.setattr("pyro_nf.fitting.prepare.CHECKPOINT_FORMAT", 8)
    fit(model, checkpoint=tmp_path / "run", **options)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="the checkpoint is of another fit"):
        fit(model, checkpoint=tmp_path / "run", **options)


def test_warnings_point_to_the_line_that_called_fit(tmp_path):
    """Each is raised at another depth."""

    def stubborn():
        unused = pyro.param("unused", torch.tensor(1.0))
        x = pyro.sample("x", dist.Normal(unused.detach(), 1.0))
        if (x > 100).all():
            raise ValueError("unreachable")

    with pytest.warns(UserWarning) as caught:  # noqa: PT030  # three, whose words follow
        fit(
            stubborn, flow="diag", steps=20, progress=False, checkpoint=tmp_path / "missing" / "run"
        )
    words = ("no gradient reaches unused", "cannot be compiled", "cannot be written")
    for word in words:
        (warning,) = [w for w in caught if word in str(w.message)]
        assert warning.filename == __file__
