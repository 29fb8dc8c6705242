"""A checkpointed fit with chains, killed at random moments and resumed: does it end as it should?

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
import dataclasses, sys, torch
from pyro_nf import fit
from pyro_nf.fitting import recipe
recipe.RECIPE = dataclasses.replace(recipe.RECIPE, save_every=0.05)
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
torch.set_num_threads(1)
posterior = fit(eight_schools, *EIGHT_SCHOOLS.data, flow="planar*4", steps=400, seed=0,
                refine=True, compile="quick", progress=False, checkpoint=sys.argv[1])
state, draws = posterior.guide.state_dict(), posterior.refinement.values
torch.save([posterior.losses, *state.values(), *draws.values()], sys.argv[2])
"""


def run(path, end):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), str(end)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    moments, reached, same = random.Random(0), [], 0
    with tempfile.TemporaryDirectory() as folder:
        end = Path(folder, "end.pt")
        start = time.perf_counter()
        assert run(Path(folder, "unbroken.pt"), end).wait() == 0
        whole = time.perf_counter() - start
        expected = torch.load(end, weights_only=True)
        print(f"the unbroken run took {whole:.1f} s", flush=True)
        for kill in range(kills):
            path = Path(folder, f"{kill}.pt")
            process = run(path, end)
            time.sleep(moments.uniform(0.3, 1.0) * whole)  # before, it imports and traces
            process.kill()
            process.wait()
            # The next line raises if the file cannot be read.
            state = torch.load(path, weights_only=True)["state"] if path.exists() else None
            where = f"{len(state['losses'])} steps" if state else "nothing"
            reached.append("chains" if state and state["finished"] else where)
            assert run(path, end).wait() == 0
            found = torch.load(end, weights_only=True)
            equal = all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            same += equal
            print(f"killed at {reached[-1]}: {'the same' if equal else 'another'}", flush=True)
    print(f"{same} of {kills} resumed runs end as the unbroken one, to the last bit")
    return int(same < kills)


if __name__ == "__main__":
    sys.exit(main())
