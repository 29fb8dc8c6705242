"""Names of dimensions, and of places along them, as ArviZ has them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

__all__ = ["Label", "Labels", "components", "plain"]

Label = str | int | float


@dataclass(frozen=True)
class Labels:
    """What the dimensions of sites are called, and what is where along them.

    Attributes:
        dims: For each site names of its dimensions, from the first on; those that are missing are
            ``SITE_dim_0`` and so on.
        coords: For some of these names the labels of their places.

    Example:
        >>> labels = Labels({"theta": ("school",)}, {"school": ("Choate", "Deerfield")})
        >>> list(labels.numbers("theta", (2, 2)))
        ['theta[Choate,0]', 'theta[Choate,1]', 'theta[Deerfield,0]', 'theta[Deerfield,1]']
    """

    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Sequence[Label]] = field(default_factory=dict)

    def of(self, site: str, shape: Sequence[int]) -> list[str]:
        """The names of all dimensions of a site."""
        known = list(self.dims.get(site, ()))[: len(shape)]
        return known + [f"{site}_dim_{place}" for place in range(len(known), len(shape))]

    def numbers(self, site: str, shape: Sequence[int]) -> Iterator[str]:
        """The names of the numbers of a site."""
        names = zip(self.of(site, shape), shape, strict=True)
        for index in product(*(self.coords.get(name, range(size)) for name, size in names)):
            yield f"{site}[{','.join(map(str, index))}]" if index else site

    def sizes(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """How long each dimension of some sites is."""
        found: dict[str, int] = {}
        for site, shape in shapes.items():
            found |= zip(self.of(site, shape), shape, strict=True)
        return found

    def joined(
        self,
        coords: Mapping[str, Any] | None,
        dims: Mapping[str, Sequence[str]] | None,
        shapes: Mapping[str, Sequence[int]],
    ) -> "Labels":
        """With more of both; what does not fit is refused.

        Arguments:
            coords: More labels.
            dims: More names.
            shapes: The shapes of the sites.
        """
        names = {site: _names(site, given, shapes) for site, given in (dims or {}).items()}
        other = Labels({**self.dims, **names}, self.coords)
        sizes = other.sizes(shapes)
        labels = {name: tuple(map(plain, given)) for name, given in (coords or {}).items()}
        for name, given in labels.items():
            if name not in sizes:
                raise ValueError(f"no dimension is called {name!r}; there are {', '.join(sizes)}")
            if len(given) != sizes[name]:
                raise ValueError(
                    f"the dimension {name!r} has {sizes[name]} places, and coords {len(given)}"
                )
        return Labels(other.dims, {**self.coords, **labels})


def _names(site: str, given: Any, shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The names of dimensions of a site, if it has so many."""
    if site not in shapes:
        raise ValueError(f"dims has a site {site!r}; the sites are {', '.join(shapes)}")
    if isinstance(given, str) or len(given) > len(shapes[site]):
        raise ValueError(
            f"the site {site!r} has the shape {tuple(shapes[site])}, and dims {given!r}; expected "
            "a list of a name for each dimension"
        )
    return tuple(given)


def plain(label: Any) -> Label:
    """A label that JSON knows, too."""
    value = label.item() if hasattr(label, "item") else label
    return value if isinstance(value, str | int | float) else str(label)


def components(name: str, shape: Sequence[int]) -> Iterator[str]:
    """The names of the numbers of a site without labels.

    Example:
        >>> list(components("x", (2, 2)))
        ['x[0,0]', 'x[0,1]', 'x[1,0]', 'x[1,1]']
    """
    return Labels().numbers(name, shape)
