"""Models of the gallery, grouped by subject, each as its author would write it.

`Written` is a model with its data; `ALL` has every one by name. A `twin` has the same posterior in
the spelling that is easiest for long chains: discrete sites and what else has a closed form are
integrated by hand, and hierarchies are not centred. It is what the references are made from.
"""

from gallery_models import captures, counts, discrete, groups, matrices, regressions, series
from gallery_models.written import Written as Written

ALL = {
    name: make
    for group in (regressions, counts, groups, matrices, series, discrete, captures)
    for name, make in group.MODELS.items()
}
