"""The default call on two posteriors of posteriordb, and the benchmark that scores it."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_default_call_is_right_on_both():
    script = BENCHMARKS / "posteriors.py"
    done = subprocess.run(
        [sys.executable, str(script), str(BENCHMARKS / "posteriordb")],
        check=True,
        capture_output=True,
        text=True,
    )
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    head, rows = table[0], table[2:4]
    found = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["posterior"].split("-")[0] for row in found] == ["eight_schools", "kilpisjarvi_mod"]
    for row in found:
        # The references are 2,000 draws: 0.08 is what the worst of ten means may be off by chance.
        assert float(row["mean"]) < 0.08
        assert float(row["log sd"]) < 0.08
        assert float(row["ESS"]) > 0.95
        # k-hat is noise where the weights agree to a thousandth: 0.3 to 0.9 in thirteen fits of
        # kilpisjarvi. Above 0.7 the verdict is "usable".
        same = float(row["ESS"]) > 0.999
        assert row["verdict"] in (("good", "usable") if same else ("good",))
