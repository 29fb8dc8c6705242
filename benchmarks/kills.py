"""A checkpointed fit, killed at random moments and resumed: does it end where it should?

OMP_NUM_THREADS=1 python benchmarks/kills.py [--kills 20]
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

SCRIPT = """
import sys, torch
import pyro_nf.run
pyro_nf.run.SAVE_EVERY = 0.05
from pyro_nf import fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
torch.set_num_threads(1)
posterior = fit(eight_schools, *EIGHT_SCHOOLS.data, flow="planar*4", steps=4000, seed=0,
                compile="quick", progress=False, checkpoint=sys.argv[1])
state = posterior.guide.state_dict()
torch.save([posterior.losses, *state.values()], sys.argv[2])
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        path, unbroken = Path(folder, "fit.pt"), Path(folder, "unbroken.pt")
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(Path(folder, "a.pt")), str(unbroken)], check=True
        )
        whole = time.perf_counter() - start
        expected = torch.load(unbroken, weights_only=True)
        print(f"the unbroken run took {whole:.1f} s")
        moments, reached, end = random.Random(0), [], Path(folder, "end.pt")
        for _ in range(kills):
            process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), str(end)])
            time.sleep(moments.uniform(0.0, whole))
            process.kill()
            process.wait()
            if path.exists():  # the next line raises if the file cannot be read
                reached.append(len(torch.load(path, weights_only=True)["losses"]))
        print(f"steps reached at each of {kills} kills: {reached}")
        subprocess.run([sys.executable, "-c", SCRIPT, str(path), str(end)], check=True)
        found = torch.load(end, weights_only=True)
        same = all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        print(f"equal to the unbroken run to the last bit: {same}")
        return int(not same)


if __name__ == "__main__":
    sys.exit(main())
