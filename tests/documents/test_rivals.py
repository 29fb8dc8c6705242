"""What rivals.py makes of others' answers. Whether their models are ours, no test can ask here."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FOLDER = BENCHMARKS / "posteriordb"
SCHOOLS = "eight_schools-eight_schools_noncentered"


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_second_data_set_is_another_of_the_same_kind():
    from rival_files import read, second

    real = read(FOLDER, SCHOOLS)
    again = second(SCHOOLS, real)
    assert again.shape == real["y"].shape
    assert 0 < np.abs(again - real["y"]).max() < real["y"].std()
    assert (again == second(SCHOOLS, real)).all()
    binary = np.arange(400.0).reshape(20, 20) % 2
    flipped = second("irt_2pl", {"y": binary})
    assert set(np.unique(flipped)) == {0, 1}
    assert 0 < (flipped != binary).mean() < 0.2
    counts = second("gp_pois_regr-gp_pois_regr", {"k": np.array([40.0, 3.0, 0.0])})
    assert (counts == counts.round()).all()
    assert counts[0] != 40


def test_the_model_of_what_it_observes_is_the_posterior():
    from pyro_rivals import observing
    from rival_files import module

    model, draws = module(FOLDER, "load").load(SCHOOLS)
    other, y = observing(FOLDER, SCHOOLS)
    point = {site: value[0] for site, value in draws.items()}

    def density(model, *args):
        return poutine.trace(poutine.condition(model, point)).get_trace(*args).log_prob_sum()

    assert density(other, y) == density(model)
    assert density(other, y + 1) != density(model)


@pytest.mark.parametrize("file", ["rival_models_numpyro.py", "rival_models_pymc.py"])
def test_each_posterior_is_translated(file):
    from rival_files import function
    from rivals import NAMES

    tree = ast.parse((BENCHMARKS / file).read_text())
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert len(set(NAMES)) == 12
    assert {function(name) for name in NAMES} <= there


def test_densities_are_compared_up_to_a_constant():
    from rival_densities import COUNT, gap, points

    ours = np.array([-1.0, -50.0, -3.0])
    assert gap(ours, ours + 7) < 1e-14
    assert gap(ours, ours + 7 + np.array([0, 0, 0.4])) == pytest.approx(0.1)
    at = points({"x": torch.arange(50.0), "y": torch.arange(50.0)})
    same = at["x"] == at["y"]
    assert same[:COUNT].all()
    assert not same[COUNT:].all()


def test_rows_come_from_what_is_stored(tmp_path):
    from rival_files import module, now, write
    from rivals import means, rows

    _, draws = module(FOLDER, "load").load(SCHOOLS)
    shifted = draws | {"mu": draws["mu"] + draws["mu"].std(correction=0) / 2}
    took = {"fit": {"cold": 2, "warm": 1}, "nutpie": {"cold": 4, "warm": 8}, "Pyro NUTS": {}}
    for method, kinds in took.items():
        (tmp_path / method).mkdir()
        for kind, cpu in kinds.items():
            file = tmp_path / method / kind
            write(file, now(), shifted if method == "fit" and kind == "cold" else draws)
            file.with_suffix(".json").write_text(json.dumps({"wall": 9, "cpu": cpu, "note": ""}))
    told = {"wall": 9, "cpu": 20, "note": "3 of 8000 transitions"}
    (tmp_path / "Pyro NUTS/cold.json").write_text(json.dumps(told))
    found = list(rows(FOLDER, SCHOOLS, tmp_path))
    by = {row[1]: row for row, _ in found}
    ratios = {row[1]: ratio for row, ratio in found}
    assert ratios == {"fit": 1, "fit, second data": 1, "nutpie": 2, "nutpie, second data": 8} | {
        "Pyro NUTS": 10
    }
    assert by["fit"][5:7] == ["0.500", "0.000"]
    assert by["fit, second data"][5:7] == by["nutpie"][5:7] == ["0.000", "0.000"]
    assert by["nutpie, second data"][5] == by["Pyro NUTS"][5] == ""
    assert by["Pyro NUTS"][2::2][:2] == [">20.00", ">10.00"]
    others = [(["other", *row[1:]], ratio * 4) for row, ratio in found]
    cells = [line.replace(" ", "").split("|") for line in means(found + others).splitlines()]
    by = {line[1]: line[2:7] for line in cells}
    assert by["nutpie,seconddata"] == ["2", "0", "16.00", "8.00", "32.00"]
    assert by["PyroNUTS"] == ["2", "2", ">20.00", ">10.00", ">40.00"]


def test_nuts_ends_or_says_how_far_it_came(monkeypatch):
    import pyro_rivals

    for count in ("WARMUP", "KEPT", "CHAINS"):
        monkeypatch.setattr(pyro_rivals, count, 3)
    model, y = pyro_rivals.observing(FOLDER, SCHOOLS)
    draws, note = pyro_rivals.by_nuts(lambda: model(y), 60)
    assert draws["theta_trans"].shape == (9, 8)
    assert note == ""
    assert pyro_rivals.by_nuts(lambda: model(y), 0) == ({}, "1 of 18 transitions")


def test_an_answer_is_kept_whole_and_a_failure_told(tmp_path):
    from rivals import answer, stored

    words = SCHOOLS, 0, tmp_path / "in time"
    answer(sys.executable, "Pyro NUTS", FOLDER, *words)
    told, draws = stored(tmp_path / "in time", "cold")
    assert (told["note"], draws) == ("1 of 8000 transitions", {})
    assert told["cpu"] > 0
    answer(sys.executable, "NumPyro NUTS", FOLDER, "nothing", 0, tmp_path / "failed")
    told, draws = stored(tmp_path / "failed", "cold")
    assert told["note"].startswith("failed: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failed", "in time"]
