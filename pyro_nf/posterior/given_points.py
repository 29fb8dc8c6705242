"""What is to be said of a posterior of some sites, given points for the others."""

from pyro_nf.posterior.finding import Finding
from pyro_nf.posterior.joint import Joint

__all__ = ["given_points"]


def given_points(joint: Joint) -> list[Finding]:
    """That a guide with points is no posterior of all sites, however good it is given these."""
    if not joint.point_sites:
        return []
    names = ", ".join(sorted(joint.point_sites))
    return [
        Finding(
            "points",
            float(sum(joint.latents[name].shape.numel() for name in joint.point_sites)),
            "caps",
            f"{names}; weights and evidence are those of the other sites with these points",
            "some latent sites are at one point each",
            "given the points the draws stand for the posterior of the other sites, but of how far "
            f'the points are known they say nothing ({names}); rest="normal" gives these a width',
        )
    ]
