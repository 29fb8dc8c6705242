"""What is promised of versions is what the table of CONTRIBUTING.md shows."""

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
COLUMNS = ("python", "torch", "arviz", "pyro-ppl", "numpy", "pandas")
ROWS = [
    dict(zip(COLUMNS, re.findall(r"\d+\.[\d.]+", line), strict=False))
    for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    if re.match(r"\| 3\.\d+\.\d+ +\| \d", line)
]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")


def minor(version):
    return ".".join(version.split(".")[:2])


def test_the_pythons_named_are_those_of_the_table():
    pythons = sorted({minor(row["python"]) for row in ROWS}, key=Version)
    said = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert said == pythons
    assert SETUP["options"]["python_requires"] == f">={pythons[0]}"
    assert f"Python {pythons[0]} to {pythons[-1]}" in (ROOT / "README.md").read_text()


def test_lower_bounds_are_the_oldest_versions_of_the_table():
    lines = SETUP["options"]["install_requires"] + SETUP["options.extras_require"]["plots"]
    bounds = {need.name: str(need.specifier) for need in map(Requirement, lines.split("\n")[1:])}
    for name in COLUMNS[1:]:
        oldest = min((row[name] for row in ROWS), key=Version)
        assert bounds[name] == f">={oldest}"


def test_constraints_have_one_version_a_package_on_each_python():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    for row in ROWS:
        here = {"python_version": minor(row["python"])}
        names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(here)]
        assert sorted(names) == sorted({pin.name for pin in pins})
