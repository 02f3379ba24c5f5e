"""Define losses on values inside the teacher and the student, over pairs of a teacher's tap and a student's module.

The values are [batch, channels, …]. Which tap goes with which module only the user can know, so recipes name the
pairs, and the teacher's taps by their names in its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..core.errors import RecipeError
from ..core.quantities import NonNegative
from ..core.text import did_you_mean, shown

Values = Mapping[str, Tensor]
Pairs = Annotated[dict[str, str], Len(1)]  # teacher's tap → student's module
TwoPairs = Annotated[dict[str, str], Len(2, 2)]


class Term(Protocol):
    """Declare a term of the loss: a frozen dataclass whose fields are its recipe keys."""

    @property
    def weight(self) -> float: ...

    def links(self) -> Iterator[tuple[str, str]]:
        """Iterate over pairs: a teacher's tap, and the student's module that corresponds to it."""

    def __call__(self, teacher: Values, student: Values) -> Tensor:
        """Compute the sum over the pairs, without the weight."""


@dataclass(frozen=True)
class FeatureDistance:
    """Compute Σ mean (a_T − a_S)² over samples and values.

    FitNets (Romero et al., ICLR 2015, equation 3), without their regressor: the shapes must agree.

    Attributes:
        pairs: the teacher's taps, and the student's modules.
    """

    pairs: Pairs
    weight: NonNegative = 1.0

    def links(self) -> Iterator[tuple[str, str]]:
        yield from self.pairs.items()

    def __call__(self, teacher: Values, student: Values) -> Tensor:
        return _sum(self._one(link, teacher[link[0]], student[link[1]]) for link in self.links())

    def _one(self, link: tuple[str, str], theirs: Tensor, ours: Tensor) -> Tensor:
        if theirs.shape != ours.shape:
            raise _misfit("features", link, theirs, ours, "The shapes must agree; `attention` compares others too.")
        return F.mse_loss(ours, theirs)


@dataclass(frozen=True)
class AttentionTransfer:
    """Compute Σ mean (A_T − A_S)², A = m / ‖m‖ for each sample, m the mean of a² over channels, flattened.

    Attention transfer (Zagoruyko and Komodakis, ICLR 2017, section 3.1) as in ZSKT (Micaelli and Storkey, NeurIPS
    2019), whose weight is the default. Channels may differ; where the sides do, the teacher's map is resized to
    those of the student's.

    Attributes:
        pairs: the teacher's taps, and the student's modules.
    """

    pairs: Pairs
    weight: NonNegative = 250.0

    def links(self) -> Iterator[tuple[str, str]]:
        yield from self.pairs.items()

    def __call__(self, teacher: Values, student: Values) -> Tensor:
        return _sum(self._one(link, teacher[link[0]], student[link[1]]) for link in self.links())

    def _one(self, link: tuple[str, str], theirs: Tensor, ours: Tensor) -> Tensor:
        if theirs.dim() != ours.dim() or not 3 <= ours.dim() <= 5:
            raise _misfit("attention", link, theirs, ours, "Both need maps [batch, channels, …] of as many sides.")
        wanted, got = (side.square().mean(1, keepdim=True) for side in (theirs, ours))
        if wanted.shape != got.shape:
            wanted = F.interpolate(wanted, got.shape[2:], mode="area")
        return F.mse_loss(F.normalize(got.flatten(1)), F.normalize(wanted.flatten(1)))


@dataclass(frozen=True)
class Fsp:
    """Compute Σ mean over samples of ‖G_T − G_S‖², G = Σ F₁ F₂ᵀ / (height · width), channels × channels of two layers.

    The flow of the solution procedure (Yim, Joo, Bae, Kim, CVPR 2017, equations 1 and 2).

    Attributes:
        pairs: for each matrix the two layers that it is pop_values between: two of the teacher's taps, and the
            student's modules. The two of a side are of one size.
    """

    pairs: Annotated[tuple[TwoPairs, ...], Len(1)]
    weight: NonNegative = 1.0

    def links(self) -> Iterator[tuple[str, str]]:
        for two in self.pairs:
            yield from two.items()

    def __call__(self, teacher: Values, student: Values) -> Tensor:
        return _sum(self._one(tuple(two.items()), teacher, student) for two in self.pairs)

    def _one(self, links: Sequence[tuple[str, str]], teacher: Values, student: Values) -> Tensor:
        firsts, seconds = ([teacher[tap], student[module]] for tap, module in links)
        for link, firsts_side, seconds_side in zip(zip(*links, strict=True), firsts, seconds, strict=True):
            if firsts_side.shape[2:] != seconds_side.shape[2:] or firsts_side.dim() < 3:
                remedy = "Name two layers of one size, before and after a stage."
                raise _misfit("fsp", link, firsts_side, seconds_side, remedy)
        for link, (theirs, ours) in zip(links, (firsts, seconds), strict=True):
            if theirs.shape[1] != ours.shape[1]:
                raise _misfit("fsp", link, theirs, ours, "The channels must agree; `attention` compares others too.")
        theirs, ours = (_flow(*layers) for layers in zip(firsts, seconds, strict=True))
        return (theirs - ours).square().sum((1, 2)).mean()


class Match:
    """Sum the terms that a recipe names, weighted.

    Attributes:
        teacher_taps: the taps that they need of the teacher.
        student_modules: the modules that they need of the student.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        links = [link for term in self.terms for link in term.links()]
        self.teacher_taps = tuple(dict.fromkeys(tap for tap, _ in links))
        self.student_modules = tuple(dict.fromkeys(module for _, module in links))

    def __call__(self, teacher: Values, student: Values) -> Tensor:
        """Compute the weighted sum.

        Args:
            teacher: values by tap; no gradient reaches them.
            student: values by module.

        Raises:
            RecipeError: if two values cannot be compared.
        """
        fixed = {tap: teacher[tap].detach() for tap in self.teacher_taps}
        return _sum(term.weight * term(fixed, student) for term in self.terms)


class ActivationRecorder:
    """Record the outputs of modules of a network at every call of it, until it is closed.

    Args:
        net: the network.
        modules: names of modules inside it, such as ``3.1.conv2``.

    Raises:
        RecipeError: if it has no such module; says which there are.
    """

    def __init__(self, net: nn.Module, modules: Sequence[str]) -> None:
        known = {name: module for name, module in net.named_modules() if name}
        for name in modules:
            if name not in known:
                hint = did_you_mean(name, known)
                raise RecipeError(
                    f"the student has no module {shown(name)}{hint}", remedy="It has " + ", ".join(known) + "."
                )
        self._values: dict[str, Tensor] = {}
        self._names = tuple(modules)
        self._hooks: list[RemovableHandle] = [self._hook(name, known[name]) for name in modules]

    def __enter__(self) -> ActivationRecorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def pop_values(self) -> dict[str, Tensor]:
        """Return the modules' outputs at the network's last call, and forget them, so that their graph can be freed.

        Raises:
            RecipeError: if the network did not call one of them.
        """
        values, self._values = self._values, {}
        for name in self._names:
            if name not in values:
                raise RecipeError(
                    f"the student's module {shown(name)} is never called, or gives no tensor", remedy="Name another."
                )
        return values

    def close(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str, module: nn.Module) -> RemovableHandle:
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                self._values[name] = output

        return module.register_forward_hook(keep)


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Compute G: [batch, m, …], [batch, n, …] → [batch, m, n]."""
    first, second = first.flatten(2), second.flatten(2)
    return first @ second.transpose(1, 2) / first.shape[2]


def _sum(values: Iterator[Tensor]) -> Tensor:
    return sum(values, start=next(values))


def _misfit(name: str, link: Sequence[str], first: Tensor, second: Tensor, remedy: str) -> RecipeError:
    shapes = [list(value.shape[1:]) for value in (first, second)]
    what = f"{name} cannot compare {shown(link[0])} {shapes[0]} with {shown(link[1])} {shapes[1]}"
    return RecipeError(what, remedy=remedy)


MATCHES: Mapping[str, type] = {"features": FeatureDistance, "attention": AttentionTransfer, "fsp": Fsp}
