"""nutpie's answer to a PyMC model: for rivals.py, whose processes rival_files.py describes.

METHOD is nutpie, 4 x (its own warm-up + 1000) on one core. Cold, building the model and compiling
it count, and imports do not; warm, a second data set goes through what is compiled. With `prime`
a small regression is compiled before, since a first one takes four seconds for what all models
share, and leaves it on disk. With `disk` it is cold once more, as `disk.npz` and `disk.json`, but
finds the files of the earlier run.
"""

import importlib

import numpy as np
import nutpie
import pymc as pm
import rival_models_pymc as models
from rival_files import arguments, function, now, observed, read, second, write

importlib.import_module("pytensor.link.numba.dispatch")  # pytensor would import it when compiling


def built(name, data):
    """The PyMC model of a posterior."""
    values = models.variables(function(name), data[observed(name)])
    with pm.Model() as model:
        shared = {key: pm.Data(f"data_{key}", value) for key, value in values.items()}
        getattr(models, function(name))(data, **shared)
    return model


def primed():
    """Compiles a small model, for what pytensor and numba keep on disk."""
    x = np.random.default_rng(0).standard_normal((30, 3))
    with pm.Model() as model:
        slope = pm.Normal("slope", 0.0, 1.0, shape=3)
        noise = pm.HalfNormal("noise", 1.0)
        pm.Normal("obs", x @ slope, noise, observed=pm.Data("data_y", x[:, 0]))
    sampled(nutpie.compile_pymc_model(model))


def sampled(compiled):
    """Four chains, one after the other, as draws by site."""
    trace = nutpie.sample(compiled, draws=1000, chains=4, cores=1, seed=0, progress_bar=False)
    sites = trace.posterior
    return {site: sites[site].values.reshape(-1, *sites[site].shape[2:]) for site in sites}


def densities(model, points):
    """The log joint density at each of the points."""
    log_joint = model.compile_logp(jacobian=False)
    found = []
    for k in range(len(next(iter(points.values())))):
        point = {}
        for variable in model.free_RVs:
            value, transform = points[variable.name][k], model.rvs_to_transforms[variable]
            if transform is not None:
                value = transform.forward(value, *variable.owner.inputs).eval()
            point[model.rvs_to_values[variable].name] = value
        found.append(log_joint(point))
    return np.array(found)


def main():
    options = arguments()
    data = read(options.folder, options.name)
    if options.method == "density":
        with np.load(options.out / "points.npz") as points:
            found = densities(built(options.name, data), dict(points))
        np.savez(options.out / "density.npz", density=found)
        return
    if options.method == "prime":
        primed()
        return
    start = now()
    compiled = nutpie.compile_pymc_model(built(options.name, data))
    draws = sampled(compiled)
    if options.method == "disk":
        write(options.out / "disk", start, draws)
        return
    write(options.out / "cold", start, draws)
    again = second(options.name, data)
    start = now()
    values = models.variables(function(options.name), again)
    other = compiled.with_data(**{f"data_{key}": value for key, value in values.items()})
    write(options.out / "warm", start, sampled(other))


if __name__ == "__main__":
    main()
