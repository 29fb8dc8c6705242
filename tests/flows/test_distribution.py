"""FlowDistribution: its own sample scores as any other value."""

import torch
from flow_cases import FORMULAS, perturbed, standard_normal

from pyro_nf import FlowDistribution


def test_a_sample_scores_as_any_value():
    for formula in FORMULAS:
        q = FlowDistribution(standard_normal(3), perturbed(formula, 3))
        sample = q.rsample((10,))
        assert torch.allclose(q.log_prob(sample), q.log_prob(sample.clone()), atol=1e-10)
