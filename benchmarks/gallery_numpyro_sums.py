"""Models of the gallery for NumPyro whose discrete sites are summed by hand, and neural nets.

`gallery_numpyro.py` runs them. The twins of `gallery_models` are the same in Pyro.
"""

import itertools

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import transforms

sample = numpyro.sample


def rasch(jj, ii, y):
    sd = sample("sd", dist.HalfNormal(2.0))
    z = sample("z", dist.Normal(0.0, 1.0).expand([30]))
    theta = numpyro.deterministic("theta", sd * z)
    b = jnp.stack([sample(f"b_{i}", dist.Normal(0.0, 2.0)) for i in range(8)])
    sample("y", dist.Bernoulli(logits=theta[jj] - b[ii]), obs=y)


def cjs_3(y):
    years = y.shape[1]
    phi_mean = sample("phi_mean", dist.Uniform(0.0, 1.0))
    phi_sigma = sample("phi_sigma", dist.Uniform(0.0, 10.0))
    rho = sample("rho", dist.Uniform(0.0, 1.0))
    middle = jnp.log(phi_mean) - jnp.log1p(-phi_mean)
    phi = [1.0]
    for t in range(1, years):
        effect = sample(f"effect_{t}", dist.Normal(0.0, 1.0))
        logit = numpyro.deterministic(f"phi_logit_{t}", middle + phi_sigma * effect)
        phi.append(jax.nn.sigmoid(logit))
    ever = y.cumsum(1) > 0
    later = y[:, ::-1].cumsum(1)[:, ::-1] > 0
    total, unmet = 0.0, 1.0  # the chance that one alive now is never met again
    for t in reversed(range(1, years)):
        seen = jnp.where(y[:, t] == 1, phi[t] * rho, phi[t] * (1 - rho))
        total = total + jnp.where(ever[:, t - 1] & later[:, t], jnp.log(seen), 0.0).sum()
        unmet = 1 - phi[t] + phi[t] * (1 - rho) * unmet
        last = (y[:, t - 1] == 1) & ~later[:, t]
        total = total + jnp.where(last, jnp.log(unmet), 0.0).sum()
    numpyro.factor("y", total)


def dirichlet_process(data):
    sticks = 4
    alpha = sample("alpha", dist.Gamma(2.0, 2.0))
    beta = sample("beta", dist.Beta(1.0, alpha).expand([sticks - 1]))
    mu = sample("mu", dist.Normal(0.0, 4.0).expand([sticks]))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    left = jnp.cumprod(1 - beta)
    weights = jnp.append(beta, 1.0) * jnp.append(1.0, left)
    parts = dist.Normal(mu, sigma).log_prob(data[:, None]) + jnp.log(weights)
    numpyro.factor("obs", jax.nn.logsumexp(parts, -1).sum())


def hmm(sequence):
    probs_x = sample("probs_x", dist.Dirichlet(0.9 * jnp.eye(3) + 0.5))
    base = dist.Normal(0.0, 3.0).expand([3]).to_event(1)
    ordered = transforms.OrderedTransform()
    means = sample("means", dist.TransformedDistribution(base, ordered))
    moves = jnp.log(probs_x)
    seen = dist.Normal(means, 1.0).log_prob(sequence[:, None])

    def step(forward, one):
        return jax.nn.logsumexp(forward[:, None] + moves, 0) + one, None

    forward, _ = lax.scan(step, moves[0] + seen[0], seen[1:])
    numpyro.factor("y", jax.nn.logsumexp(forward))


def mixed_hmm(steps):
    share = sample("share", dist.Beta(2.0, 2.0))
    stay = sample("stay", dist.Beta(jnp.array([8.0, 4.0]), jnp.array([2.0, 6.0])))
    rate = sample("rate", dist.Gamma(jnp.array([8.0, 2.0]), 2.0))
    seen = dist.Gamma(4.0, rate).log_prob(steps[:, :, None]).transpose(1, 0, 2)
    sorts = []
    for keep in stay:
        moves = jnp.log(jnp.array([[keep, 1 - keep], [1 - keep, keep]]))
        forward = moves[0] + seen[0]
        for one in seen[1:]:
            forward = jax.nn.logsumexp(forward[:, :, None] + moves, 1) + one
        sorts.append(jax.nn.logsumexp(forward, -1))
    total = jnp.logaddexp(jnp.log1p(-share) + sorts[0], jnp.log(share) + sorts[1])
    numpyro.factor("step", total.sum())


def topics(data):
    topic_words = sample("topic_words", dist.Dirichlet(jnp.ones(5)).expand([2]))
    doc_topics = sample("doc_topics", dist.Dirichlet(0.7 * jnp.ones(2)).expand([6]))
    chances = doc_topics @ topic_words
    numpyro.factor("doc_words", jnp.log(chances[jnp.arange(6), data]).sum())


def net(x, y, sizes=(1, 4, 1)):
    h = x
    for depth, (before, after) in enumerate(itertools.pairwise(sizes)):
        weight = sample(f"layers.{depth}.weight", dist.Normal(jnp.zeros((after, before)), 1.0))
        bias = sample(f"layers.{depth}.bias", dist.Normal(jnp.zeros(after), 1.0))
        h = jnp.tanh(h) if depth else h
        h = h @ weight.T + bias
    sigma = sample("sigma", dist.Gamma(2.0, 4.0))
    sample("obs", dist.Normal(h[:, 0], sigma), obs=y)


def wide_net(x, y):
    net(x, y, (1, 30, 30, 1))


MODELS = {
    make.__name__: make
    for make in (rasch, cjs_3, dirichlet_process, hmm, mixed_hmm, topics, net, wide_net)
}
