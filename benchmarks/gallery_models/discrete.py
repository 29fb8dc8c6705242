"""Discrete latents that are summed out; by hand in the twins."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from gallery_models.written import Makers, Written

__all__ = ["MODELS"]

# British coal mines, 1851 to 1961: years with so many disasters.
COAL = """4 5 4 0 1 4 3 4 0 6 3 3 4 0 2 6 3 3 5 4 5 3 1 4 4 1 5 5 3 4 2 5 2 2 3 4 2 1 3 2
2 1 1 1 1 3 0 0 1 0 1 1 0 0 3 1 0 3 2 2 0 1 1 1 0 1 0 1 0 0 0 2 1 0 0 0 1 1 0 2 3 3 1 1 2
1 1 1 1 2 4 2 0 0 1 4 0 0 0 1 0 0 0 0 0 1 0 0 1 0 1"""


def coal() -> Written:
    """The year in which mines became safer: a switch of 111 values, two rates."""
    counts = torch.tensor([float(word) for word in COAL.split()])

    def model(D):  # noqa: N803
        e = pyro.sample("e", dist.Exponential(1.0))
        l = pyro.sample("l", dist.Exponential(1.0))  # noqa: E741
        T = len(D)  # noqa: N806
        s = pyro.sample("s", dist.Categorical(torch.ones(T) / T), infer={"enumerate": "parallel"})
        with pyro.plate("years", T):
            rate = torch.where(torch.arange(T) < s, e, l)
            pyro.sample("D", dist.Poisson(rate), obs=D)

    def twin(D):  # noqa: N803
        e = pyro.sample("e", dist.Exponential(1.0))
        l = pyro.sample("l", dist.Exponential(1.0))  # noqa: E741
        before = dist.Poisson(e).log_prob(D).cumsum(0)
        after = dist.Poisson(l).log_prob(D)
        after = after.sum() - after.cumsum(0)
        none = dist.Poisson(l).log_prob(D).sum()
        each = torch.cat([none[None], (before + after)[:-1]])
        pyro.factor("D", each.logsumexp(0) - np.log(len(D)))

    return Written(model, (counts,), twin=twin)


def mixture() -> Written:
    """Pyro's tutorial of Gaussian mixtures: five points, `locs[assignment]`."""
    data = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])
    K = 2  # noqa: N806

    def model(data):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(K)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", K):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)

    def twin(data):  # of the scale alone
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        found = []
        for code in range(2 ** len(data)):
            first = torch.tensor([bool(code >> k & 1) for k in range(len(data))])
            count = first.sum().to(data)
            rest = len(data) - count
            value = torch.lgamma(count + 0.5) + torch.lgamma(rest + 0.5)
            for part in (data[first], data[~first]):
                if len(part):
                    var = scale**2 * torch.eye(len(part)) + 100.0
                    value = value + dist.MultivariateNormal(part * 0, var).log_prob(part)
            found.append(value)
        pyro.factor("obs", torch.stack(found).logsumexp(0))

    return Written(model, (data,), twin=twin, numbers=lambda d: {"scale": d["scale"].log()})


def dirichlet_process() -> Written:
    """Sticks broken four times (Pyro's tutorial), by the density that they make at some places."""
    rng = np.random.default_rng(61)
    y = np.concatenate([rng.normal(-3, 0.7, 25), rng.normal(2, 0.7, 35)])
    T = 4  # noqa: N806

    def mix_weights(beta):
        left = (1 - beta).cumprod(-1)
        return torch.nn.functional.pad(beta, (0, 1), value=1.0) * torch.nn.functional.pad(
            left, (1, 0), value=1.0
        )

    def model(data):
        alpha = pyro.sample("alpha", dist.Gamma(2.0, 2.0))
        with pyro.plate("beta_plate", T - 1):
            beta = pyro.sample("beta", dist.Beta(1, alpha))
        with pyro.plate("mu_plate", T):
            mu = pyro.sample("mu", dist.Normal(0.0, 4.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(mix_weights(beta)))
            pyro.sample("obs", dist.Normal(mu[z], sigma), obs=data)

    def twin(data):
        alpha = pyro.sample("alpha", dist.Gamma(2.0, 2.0))
        beta = pyro.sample("beta", dist.Beta(1.0, alpha).expand([T - 1]).to_event(1))
        mu = pyro.sample("mu", dist.Normal(0.0, 4.0).expand([T]).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        parts = dist.Normal(mu, sigma).log_prob(data[:, None]) + mix_weights(beta).log()
        pyro.factor("obs", parts.logsumexp(-1).sum())

    def numbers(draws):
        at = torch.tensor([-3.0, -1.0, 2.0]).to(draws["mu"])
        parts = dist.Normal(draws["mu"], draws["sigma"][..., None]).log_prob(at[:, None, None])
        density = (parts + mix_weights(draws["beta"]).log()).logsumexp(-1).T
        return {"density": density, "sigma": draws["sigma"].log()}

    return Written(model, (torch.tensor(y).float(),), twin=twin, numbers=numbers)


def hmm() -> Written:
    """Three chords from one note each, Pyro's hidden Markov models: transitions by their row."""
    rng = np.random.default_rng(62)
    moves = np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]])
    x, notes = 0, []
    for _ in range(80):
        x = rng.choice(3, p=moves[x])
        notes.append([-3.0, 0.0, 3.0][x] + rng.standard_normal())

    def model(sequence):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(3) + 0.5).to_event(1))
        base = dist.Normal(0.0, 3.0).expand([3]).to_event(1)
        ordered = dist.transforms.OrderedTransform()
        means = pyro.sample("means", dist.TransformedDistribution(base, ordered))
        x = 0
        for t in pyro.markov(range(len(sequence))):
            x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Normal(means[x], 1.0), obs=sequence[t])

    def twin(sequence):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(3) + 0.5).to_event(1))
        base = dist.Normal(0.0, 3.0).expand([3]).to_event(1)
        ordered = dist.transforms.OrderedTransform()
        means = pyro.sample("means", dist.TransformedDistribution(base, ordered))
        moves = probs_x.log()
        seen = dist.Normal(means, 1.0).log_prob(sequence[:, None])
        forward = moves[0] + seen[0]
        for t in range(1, len(sequence)):
            forward = (forward[:, None] + moves).logsumexp(0) + seen[t]
        pyro.factor("y", forward.logsumexp(0))

    return Written(model, (torch.tensor(notes),), twin=twin)


def mixed_hmm() -> Written:
    """Seals that swim in one of two manners, each of one of two sorts: a discrete random effect."""
    rng = np.random.default_rng(63)
    sort = rng.integers(0, 2, 8)
    steps = np.zeros((8, 12))
    for i in range(8):
        x = 0
        for t in range(12):
            stay = [0.9, 0.4][sort[i]]
            x = x if rng.random() < stay else 1 - x
            steps[i, t] = rng.gamma(4.0, [0.25, 1.0][x])

    def model(steps):
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        stay = pyro.sample(
            "stay", dist.Beta(torch.tensor([8.0, 4.0]), torch.tensor([2.0, 6.0])).to_event(1)
        )
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([8.0, 2.0]), 2.0).to_event(1))
        with pyro.plate("seals", len(steps)):
            sort = pyro.sample("sort", dist.Bernoulli(share), infer={"enumerate": "parallel"})
            x = torch.zeros(())
            for t in pyro.markov(range(steps.shape[1])):
                keep = stay[sort.long()]
                p = torch.where(x == 1, keep, 1 - keep)
                x = pyro.sample(f"x_{t}", dist.Bernoulli(p), infer={"enumerate": "parallel"})
                pyro.sample(f"step_{t}", dist.Gamma(4.0, rate[x.long()]), obs=steps[:, t])

    def twin(steps):
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        stay = pyro.sample(
            "stay", dist.Beta(torch.tensor([8.0, 4.0]), torch.tensor([2.0, 6.0])).to_event(1)
        )
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([8.0, 2.0]), 2.0).to_event(1))
        seen = dist.Gamma(4.0, rate).log_prob(steps[:, :, None])
        sorts = []
        for k in range(2):
            moves = torch.stack([stay[k], 1 - stay[k], 1 - stay[k], stay[k]]).reshape(2, 2).log()
            forward = moves[0] + seen[:, 0]
            for t in range(1, steps.shape[1]):
                forward = (forward[:, :, None] + moves).logsumexp(1) + seen[:, t]
            sorts.append(forward.logsumexp(-1))
        total = torch.logaddexp((1 - share).log() + sorts[0], share.log() + sorts[1])
        pyro.factor("step", total.sum())

    return Written(model, (torch.tensor(steps).float(),), twin=twin)


def raters() -> Written:
    """Dawid and Skene: what five raters say of thirty items, of which none is known."""
    rng = np.random.default_rng(64)
    truth = rng.choice(3, 30, p=[0.5, 0.3, 0.2])
    said = np.where(rng.random((30, 5)) < 0.75, truth[:, None], rng.integers(0, 3, (30, 5)))
    prior = torch.ones(3, 3) + 3 * torch.eye(3)

    def model(y):
        pi = pyro.sample("pi", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("raters", 5, dim=-2), pyro.plate("classes", 3, dim=-1):
            beta = pyro.sample("beta", dist.Dirichlet(prior))
        with pyro.plate("items", len(y)):
            c = pyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
            for j in range(5):
                pyro.sample(f"y_{j}", dist.Categorical(beta[j][c]), obs=y[:, j])

    def twin(y):
        pi = pyro.sample("pi", dist.Dirichlet(torch.ones(3)))
        beta = pyro.sample("beta", dist.Dirichlet(prior.to(pi)).expand([5, 3]).to_event(2))
        total = pi.log()[:, None]
        for j in range(5):
            total = total + beta[j].log()[:, y[:, j]]
        pyro.factor("y", total.logsumexp(0).sum())

    return Written(model, (torch.tensor(said),), twin=twin)


def topics() -> Written:
    """Latent Dirichlet allocation, tiny: plates of words in documents, by each word's chances."""
    rng = np.random.default_rng(65)
    truth = np.array([[0.4, 0.4, 0.1, 0.05, 0.05], [0.05, 0.05, 0.1, 0.4, 0.4]])
    shares = rng.beta(0.7, 0.7, 6)
    words = [rng.choice(5, 20, p=s * truth[0] + (1 - s) * truth[1]) for s in shares]
    words = np.stack(words, -1)

    def model(data):
        with pyro.plate("topics", 2):
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(5)))
        with pyro.plate("documents", 6):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(0.7 * torch.ones(2)))
            with pyro.plate("words", 20):
                word_topics = pyro.sample(
                    "word_topics", dist.Categorical(doc_topics), infer={"enumerate": "parallel"}
                )
                pyro.sample("doc_words", dist.Categorical(topic_words[word_topics]), obs=data)

    def twin(data):
        topic_words = pyro.sample(
            "topic_words", dist.Dirichlet(torch.ones(5)).expand([2]).to_event(1)
        )
        doc_topics = pyro.sample(
            "doc_topics", dist.Dirichlet(0.7 * torch.ones(2)).expand([6]).to_event(1)
        )
        chances = doc_topics @ topic_words
        document = torch.arange(6).expand(20, 6)
        pyro.factor("doc_words", chances[document, data].log().sum())

    def numbers(draws):
        chances = draws["doc_topics"] @ draws["topic_words"]
        return {"chances": chances.log().flatten(1)}

    return Written(model, (torch.tensor(words),), twin=twin, numbers=numbers)


MODELS: Makers = {
    make.__name__: make
    for make in (coal, mixture, dirichlet_process, hmm, mixed_hmm, raters, topics)
}
