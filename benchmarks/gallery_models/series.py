"""Series in time, by Python loops: states, epidemics, volatility."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from gallery_models.written import Makers, Written

__all__ = ["MODELS"]

NILE = """
1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140
1100 1210 1150 1250 1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831
726 456 824 702 1120 1100 832 764 821 768 845 864 862 698 845 744 796 1040 759 781 865 845 944
984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890 744 749 838 1050 918 986 797
923 975 815 1020 906 901 1170 912 746 919 718 714 740
"""


def nile() -> Written:
    """The Nile's flow in a hundred years: a local level, centred, a site for each year."""
    flow = (torch.tensor([float(word) for word in NILE.split()]) - 900) / 100

    def model(y):
        s_level = pyro.sample("s_level", dist.HalfNormal(1.0))
        s_obs = pyro.sample("s_obs", dist.HalfNormal(2.0))
        level = pyro.sample("level_0", dist.Normal(0.0, 3.0))
        pyro.sample("y_0", dist.Normal(level, s_obs), obs=y[0])
        for t in range(1, len(y)):
            level = pyro.sample(f"level_{t}", dist.Normal(level, s_level))
            pyro.sample(f"y_{t}", dist.Normal(level, s_obs), obs=y[t])

    def twin(y):
        s_level = pyro.sample("s_level", dist.HalfNormal(1.0))
        s_obs = pyro.sample("s_obs", dist.HalfNormal(2.0))
        mean, var = 0.0, 9.0  # of the level, given what was seen before
        for t, value in enumerate(y):
            total = var + s_obs**2
            pyro.sample(f"y_{t}", dist.Normal(mean, total.sqrt()), obs=value)
            mean = mean + var / total * (value - mean)
            var = var - var**2 / total + s_level**2

    return Written(model, (flow,), twin=twin)


def sir() -> Written:
    """Influenza in a boarding school, fourteen days: S, I and R by a loop of small steps."""
    in_bed = torch.tensor([3.0, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4])
    boys, steps = 763.0, 4

    def model(cases):
        beta = pyro.sample("beta", dist.LogNormal(0.5, 0.5))
        gamma = pyro.sample("gamma", dist.LogNormal(-0.9, 0.5))
        phi_inv = pyro.sample("phi_inv", dist.Exponential(5.0))
        S, I = torch.tensor(boys - 1), torch.tensor(1.0)  # noqa: E741, N806
        for t in range(len(cases)):
            for _ in range(steps):
                new = beta * I * S / boys / steps
                out = gamma * I / steps
                S, I = S - new, I + new - out  # noqa: E741, N806
            phi = 1 / phi_inv
            pyro.sample(f"cases_{t}", dist.GammaPoisson(phi, phi / I), obs=cases[t])

    return Written(model, (in_bed,))


def lynx() -> Written:
    """Hares and lynx of 1900 to 1920, Stan's case study: Lotka and Volterra by Euler's steps."""
    hare = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6, 52.3]
    hare = [*hare, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
    lynx = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1, 29.7]
    lynx = [*lynx, 15.8, 9.7, 10.1, 8.6]
    pelts, steps = torch.tensor([hare, lynx]).T, 8

    def model(pelts):
        alpha = pyro.sample("alpha", dist.LogNormal(np.log(0.55), 0.5))
        beta = pyro.sample("beta", dist.LogNormal(np.log(0.028), 0.5))
        gamma = pyro.sample("gamma", dist.LogNormal(np.log(0.8), 0.5))
        delta = pyro.sample("delta", dist.LogNormal(np.log(0.024), 0.5))
        sigma = pyro.sample("sigma", dist.LogNormal(torch.full((2,), -1.0), 1.0).to_event(1))
        z0 = pyro.sample("z0", dist.LogNormal(torch.full((2,), float(np.log(10))), 1.0).to_event(1))
        z, path = z0, [z0]
        for _ in range(len(pelts) - 1):
            for _ in range(steps):
                u, v = z[0], z[1]
                change = torch.stack([(alpha - beta * v) * u, (-gamma + delta * u) * v])
                z = z + change / steps
            path.append(z)
        z = torch.stack(path)
        pyro.sample("pelts", dist.LogNormal(z.log(), sigma).to_event(2), obs=pelts)

    return Written(model, (pelts,))


def volatility() -> Written:
    """Stochastic volatility of Stan's user guide: sixty returns, a log variance each."""
    rng = np.random.default_rng(52)
    h = [-1.0]
    for _ in range(59):
        h.append(-1 + 0.9 * (h[-1] + 1) + 0.4 * rng.standard_normal())
    returns = np.exp(np.array(h) / 2) * rng.standard_normal(60)

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        phi = pyro.sample("phi", dist.Uniform(-1.0, 1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        z = pyro.sample("z", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
        h = [mu + sigma * z[0] / (1 - phi**2).sqrt()]
        for t in range(1, len(y)):
            h.append(mu + phi * (h[-1] - mu) + sigma * z[t])
        h = torch.stack(h)
        pyro.sample("y", dist.Normal(0.0, (h / 2).exp()).to_event(1), obs=y)

    return Written(model, (torch.tensor(returns).float(),))


def volatility_walk() -> Written:
    """The same as NumPyro's example has it: a random walk of log scales, Student's returns."""
    rng = np.random.default_rng(53)
    scales = np.exp(np.cumsum(0.1 * rng.standard_normal(60)) - 1)
    returns = scales * rng.standard_t(10, 60)

    def model(returns):
        step_size = pyro.sample("sigma", dist.Exponential(10.0))
        start = pyro.sample("start", dist.Normal(0.0, 2.0))
        s = pyro.sample("s", dist.Normal(torch.zeros(len(returns)), 1.0).to_event(1))
        walk = start + step_size * s.cumsum(0)
        nu = pyro.sample("nu", dist.Exponential(0.1))
        scale = torch.exp(walk)
        pyro.sample("r", dist.StudentT(nu, 0.0, scale).to_event(1), obs=returns)

    return Written(model, (returns,))


def autoregression() -> Written:
    """A series by its last two values, with a loop over data: Stan's user guide."""
    rng = np.random.default_rng(54)
    y = [0.0, 0.5]
    for _ in range(78):
        y.append(0.3 + 0.6 * y[-1] - 0.3 * y[-2] + 0.5 * rng.standard_normal())

    def model(y):
        alpha = pyro.sample("alpha", dist.Normal(0, 5))
        beta = pyro.sample("beta", dist.Normal(0, 5).expand([2]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
        for t in pyro.markov(range(2, len(y))):
            mean = alpha + beta[0] * y[t - 1] + beta[1] * y[t - 2]
            pyro.sample(f"y_{t}", dist.Normal(mean, sigma), obs=y[t])

    return Written(model, (torch.tensor(y),))


MODELS: Makers = {
    make.__name__: make for make in (nile, sir, lynx, volatility, volatility_walk, autoregression)
}
