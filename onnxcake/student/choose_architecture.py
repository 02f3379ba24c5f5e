"""Choose a named student of the teacher's family that is clearly smaller than the teacher."""

from __future__ import annotations

from typing import Any

from ..core.errors import RecipeError
from ..teacher.facts import Facts
from .architectures import ARCHITECTURES
from .student import parameters

Choice = tuple[str, dict[str, Any]]

_DEEP = 500_000  # parameters from which a convolutional teacher with shortcuts gets a ResNet


def choose(teacher: Facts, most: float) -> Choice:
    """Choose the largest member of the teacher's family with at most ``most`` parameters.

    If none is that small, choose the smallest member.

    Returns:
        (architecture, its hyper-parameters).
    """
    best, least = None, None
    for name, hyper in _family(teacher):
        try:
            size = parameters(lambda name=name, hyper=hyper: ARCHITECTURES[name](teacher.signature, **hyper))  # type: ignore[misc]
        except RecipeError:
            continue
        if least is None or size < least[0]:
            least = (size, (name, hyper))
        if size <= most and (best is None or size > best[0]):
            best = (size, (name, hyper))
    chosen = best or least
    if chosen is None:
        raise RecipeError(
            f"no student fits inputs of shape {list(teacher.signature.shape)}",
            remedy="Name one: -o student.architecture=mlp.",
        )
    return chosen[1]


def _family(teacher: Facts) -> list[Choice]:
    kinds, shape = teacher.operators, teacher.signature.shape
    attention = kinds.get("Softmax", 0) > 0 and kinds.get("MatMul", 0) > 0
    if teacher.signature.is_image and attention:
        return [
            ("vit-small", {"dim": dim, "mlp": 2 * dim, "depth": depth, "heads": 4})
            for dim in (256, 192, 128, 96, 64, 48, 32, 24, 16)
            for depth in (6, 4, 2)
        ]
    if "Conv" not in kinds or len(shape) not in (2, 3):
        widths = (2048, 1024, 512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4)
        return [("mlp", {"hidden": (width, max(width // 2, 4))}) for width in widths]
    if teacher.signature.is_image and "Add" in kinds and teacher.parameters > _DEEP:
        return [(name, {"width": w}) for name in ("resnet18",) for w in (64, 48, 32, 24, 16)] + [
            ("resnet20", {"width": w}) for w in (64, 48, 32, 24, 16, 12, 8)
        ]
    deep = [("cnn-small", {"width": w}) for w in (128, 96, 64, 48, 40, 32, 24, 20, 16, 12, 10, 8, 6, 4)]
    return deep + [("cnn-small", {"width": w, "depth": depth}) for depth in (2, 1) for w in (6, 4, 2)]
