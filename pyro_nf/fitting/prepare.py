"""All that a run needs: a guide where it starts, an ELBO, a pool perhaps, and a step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

from pyro import poutine
from pyro.infer import ELBO, RenyiELBO, TraceMeanField_ELBO
from pyro.infer.autoguide.guides import AutoContinuous
from torch import nn
from tqdm.auto import tqdm

from pyro_nf.checks import instance
from pyro_nf.files import fingerprint
from pyro_nf.fitting.batches import refuse_local_latents
from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.checkpoint import CHECKPOINT_FORMAT
from pyro_nf.fitting.discrete import summed_out
from pyro_nf.fitting.elbo import Estimate, ManyParticles, PlainSum
from pyro_nf.fitting.evidence import Evidence
from pyro_nf.fitting.objectives import drawn
from pyro_nf.fitting.options import Options
from pyro_nf.fitting.recipe import Recipe
from pyro_nf.fitting.step import Step
from pyro_nf.flows import FlowSpec
from pyro_nf.guides import AmortizedFlowGuide, AutoFlowGuide, Gradient, flow_parts, name_apart
from pyro_nf.model import Target, look_at_data, patiently, work
from pyro_nf.posterior import refinable, why_not_refined

__all__ = ["Setup", "prepare"]

Guide = Callable[..., Any]


@dataclass(frozen=True)
class Setup:
    """What a run runs.

    Attributes:
        guide: The guide, where it starts.
        options: What fit was asked for.
        step: One step, on its ELBO.
        chain_pool: What the guide learns from besides, if there can be such a thing.
        modules: What holds, besides parameters, buffers that a checkpoint needs.
        identity: A text that tells this fit from others.
        evidence: What judges the model's own parameters; None where it has led them and the guide.
        new: Whether it has led them.
        slow: Why the model runs one draw at a time, in words; empty if it does not.
        later: What a guide of leapfrog steps is to be trained by once its flow is; None for others.
        obstacle: Why no chains go on from the guide, in words; empty if they may.
    """

    guide: Guide
    options: Options
    step: Step
    chain_pool: ChainPool | None
    modules: list[nn.Module]
    identity: str
    evidence: Evidence | None
    new: bool
    slow: str
    obstacle: str
    later: Callable[[], Estimate] | None

    @property
    def watched(self) -> bool:
        """Whether all steps are of the same data."""
        return self.options.source is None


def prepare(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    guide: Guide | None,
    flow: FlowSpec | None,
    elbo: ELBO | None,
    options: Options,
    recipe: Recipe,
) -> Setup:
    """Make what is not given, and move a new guide to where its run starts.

    Arguments:
        model: A Pyro model.
        args: What it takes; with batches, a batch first.
        kwargs: What it takes.
        guide: A guide; None for one of the flow.
        flow: What :func:`pyro_nf.make_flow` takes; None for the default.
        elbo: One of Pyro's ELBOs; None for the default.
        options: What fit was asked for.
        recipe: The numbers.
    """
    source, streams = options.source, options.source is not None
    data = [args if source is None else (source.tensors, source.rest), kwargs]
    if guide is not None:
        name_apart(guide)
    new = getattr(guide, "prototype_trace", None) is None and not options.resumes
    look_at_data(model, args, kwargs)
    fitted, discrete = summed_out(model, args, kwargs, guide, elbo)
    # Where a new guide starts, the summed density counts, unless an ELBO does the sum.
    seen = poutine.block(model, hide=discrete) if discrete and elbo is not None else fitted
    guide = _guide(seen, guide, flow, elbo)
    _follow(guide, args, kwargs, streams)
    target = _target(guide, args, kwargs, fitted if discrete else None) if elbo is None else None
    evidence = Evidence.of(fitted, guide, args, kwargs, target, recipe)
    own, near = bool(evidence.leaves), False
    if new and (isinstance(guide, AutoFlowGuide) or evidence.is_known):
        with _stage("warm start", options):
            evidence.climb()
            if isinstance(guide, AutoFlowGuide):
                near = target is not None and target.vectorized
                guide.warm_start(*args, **kwargs) if target is None else guide.whiten(target)
    chain_pool, objective, slow, given, cost = None, None, "", elbo is not None, 0.0
    if elbo is None:
        cost = work(target, target.start.expand(2, -1)) if target and target.vectorized else 0.0
        elbo, slow = _default_elbo(fitted, guide, target, cost, args, kwargs, options, recipe)
    obstacle = _obstacle(guide, options, given, slow)
    if isinstance(guide, AutoFlowGuide) and not (obstacle or own or options.refine is False):
        recipe = recipe.brief  # a model's own parameters follow from the guide, and want it near
    if target and source is None:
        cheap = cost <= recipe.cheap
        chain_pool = _chain_pool(guide, target, elbo.num_particles, recipe, cheap, own)
    if isinstance(elbo, ManyParticles) and _is_plain(target, options):
        objective = partial(_drawn, target, guide, args, kwargs, elbo.num_particles)
    if chain_pool is not None and new and not own and not options.deadline.is_over:
        with _stage("exploring", options):
            chain_pool.explore()
    made = partial(Step, elbo, fitted, guide, args, kwargs, options.anneal, recipe, streams)
    step = patiently(made)
    if objective is not None:
        step.use_objective(objective)
    if streams:
        refuse_local_latents(model, guide, args, kwargs)
    modules = [part for part in (guide, model) if isinstance(part, nn.Module)]
    identity, judge = _identity(data, options, step, guide), None if near else evidence
    rest = new, slow, obstacle, objective if chain_pool is not None and step.late else None
    return Setup(guide, options, step, chain_pool, modules, identity, judge, *rest)


@contextmanager
def _stage(name: str, options: Options) -> Iterator[None]:
    """A part of it that takes long: a bar shows its name, and Ctrl-C ends it."""
    bar = tqdm(desc=name, disable=not options.progress, leave=False)
    with options.deadline.or_interrupt(), bar:
        yield


# -------------------------------------------------------------------- guide, ELBO, pool


def _guide(
    model: Callable[..., Any], guide: Guide | None, flow: FlowSpec | None, elbo: ELBO | None
) -> Guide:
    """The guide, or that of a flow; refused where its gradient is not one of the ELBO."""
    instance("guide", guide, "model")
    instance("elbo", elbo)
    if guide is not None and flow is not None:
        raise ValueError("give either a guide or a flow, not both; a guide has its own")
    if guide is None:
        gradient: Gradient = "total" if isinstance(elbo, RenyiELBO) else "path"
        guide = AutoFlowGuide(model, flow, gradient=gradient)
    if isinstance(elbo, RenyiELBO) and getattr(guide, "gradient", "total") == "path":
        raise ValueError(
            "RenyiELBO is not linear in the guide's log density, and its path gradient is "
            'biased; type AutoFlowGuide(model, flow, gradient="total")'
        )
    if isinstance(elbo, TraceMeanField_ELBO) and not all(p.exact for p in flow_parts(guide)):
        raise ValueError(
            "TraceMeanField_ELBO has a divergence for each site, and the density of this guide is "
            "a bound for all together; type elbo=Trace_ELBO()"
        )
    return guide


def _follow(guide: Guide, args: Sequence[Any], kwargs: Mapping[str, Any], streams: bool) -> None:
    """Have a guide that draws by gradients of the model follow these data."""
    for part in flow_parts(guide):
        if part.follows:
            if streams:
                raise ValueError(
                    f"{part!r} follows the density of all data, of which a batch has some; give "
                    "fit the data without batches, or a guide without hamiltonian"
                )
            part.setup(*args, **kwargs)


def _target(
    guide: Guide, args: Sequence[Any], kwargs: Mapping[str, Any], model: Callable[..., Any] | None
) -> Target | None:
    """The log density of the posterior, where the guide packs the latents of one."""
    if not isinstance(guide, AutoContinuous):
        return None
    guide(*args, **kwargs)  # set up
    if any(part.point_sites for part in flow_parts(guide)):
        return None  # what the flow is to be moves with the points
    return Target.of(guide, args, kwargs, model)


def _default_elbo(
    model: Callable[..., Any],
    guide: Guide,
    target: Target | None,
    cost: float,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Options,
    recipe: Recipe,
) -> tuple[ELBO, str]:
    """Trace_ELBO, its particles together where each is then as if it were alone; else why not."""
    particles = options.particles
    if any(isinstance(part, AmortizedFlowGuide) for part in flow_parts(guide)):
        particles = particles or 1  # there is one for each row
    if particles == 1:
        return PlainSum(), ""
    if target is not None and _is_plain(target, options):
        refusal = target.reason
    else:
        refusal = ManyParticles.refusal(model, guide, args, kwargs)
    if refusal:
        return PlainSum(num_particles=particles or recipe.looped_particles), refusal
    affordable = min(recipe.particles, int(recipe.particles * recipe.cheap / max(cost, 1)))
    return ManyParticles(num_particles=particles or max(recipe.few_particles, affordable)), ""


def _is_plain(target: Target | None, options: Options) -> TypeGuard[Target]:
    """Whether the density that is trained is the target's: not annealed, and of the same data."""
    return target is not None and options.anneal is None and options.source is None


def _drawn(
    target: Target, guide: AutoContinuous, args: Any, kwargs: Any, particles: int
) -> Estimate:
    """The ELBO by draws of the guide's vector."""
    return drawn(target, guide.get_posterior(*args, **kwargs), particles)


def _chain_pool(
    guide: Guide, target: Target, particles: int, recipe: Recipe, cheap: bool, parameters: bool
) -> ChainPool | None:
    """A pool, still empty, if there can be one for this guide.

    The gradient of a model's parameters is of the guide's own draws, not of wider ones.
    """
    if not isinstance(guide, AutoFlowGuide) or not ChainPool.is_possible(guide, target):
        return None
    if parameters:
        recipe = replace(recipe, wider=0.0)
    return ChainPool(guide, target, particles, recipe, cheap)


def _obstacle(guide: Guide, options: Options, elbo_is_given: bool, slow: str) -> str:
    """Why chains do not go on where a fit ends, unless they are asked for; empty if they do."""
    if options.refine:
        refinable(guide)
        return ""
    if options.source is not None:
        return "chains need all of the data at each step, and a batch has some of them"
    if reason := why_not_refined(guide):
        return reason
    if elbo_is_given:
        return "what the given ELBO has trained stays as it is; type refine=True for chains"
    if slow:
        return "the model runs one draw at a time; type refine=True for chains all the same"
    return ""


# -------------------------------------------------------------------- which fit it is


def _identity(data: Sequence[Any], options: Options, step: Step, guide: Guide) -> str:
    """A text that tells this fit from others, by its data and by what a checkpoint depends on."""
    own = getattr(guide, "_pyro_name", "")  # which counts the guides
    shapes = {
        name.removeprefix(own): list(leaf.shape)
        for name, leaf in zip(step.names, step.leaves, strict=True)
    }
    return fingerprint(
        data,
        version=CHECKPOINT_FORMAT,
        rounds=step.recipe.rounds,
        steps=options.steps,
        lr=options.lr,
        elbo=type(step.elbo).__name__,
        particles=step.elbo.num_particles,
        parameters=shapes,
        anneal=options.anneal,
        warmup=options.warmup,
        batch_size=options.batch_size,
    )
