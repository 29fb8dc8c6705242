"""Whether a model draws numbers of its own, so that its density differs from run to run."""

from pyro_nf.posterior.finding import Case, Finding

__all__ = ["own_noise"]

FEW = 32  # draws at which the model is run twice
NOISE = 0.01  # nats by which a log density may differ from run to run


def own_noise(case: Case) -> Finding | None:
    """What two runs at the same draws find; None where they are alike, or a sampled site differs.

    A subsample of the data, or a site that the guide lacks, is told of elsewhere.
    """
    joint = case.joint
    if joint.partial or joint.from_prior:
        return None
    few = {name: value[:FEW] for name, value in case.values.items()}
    count = len(case.log_p[:FEW])
    gaps = (case.model(count, few)[0] - case.model(count, few)[0]).abs()
    gaps = gaps[gaps.isfinite()]
    if not (len(gaps) and float(gaps.mean()) > NOISE):
        return None
    noise = float(gaps.mean())
    message = (
        "the model draws random numbers outside of pyro.sample, so that it has no one posterior: "
        f"its log density differs by {noise:.2g} from run to run at the same values; sample these "
        "numbers, as a site, or draw them once before the fit"
    )
    words, decided = f"{noise:.2g} nats", "a log density that differs from run to run"
    return Finding("noise", noise, "spoils", words, decided, message)
