"""Check that an architecture fits the teacher's input and its own hyperparameters, and propose one that does."""

from __future__ import annotations

from ...core.errors import RecipeError
from ...teacher.signature import Signature

LEAST_IMAGE_SIDE = 4  # what `cnn-small` and `vit-small` take


def image_shape(name: str, signature: Signature, *, least_side: int) -> tuple[int, int, int]:
    """Return channels, height and width of an input that must be an image.

    Args:
        name: the architecture's recipe name.
        signature: the teacher's.
        least_side: the fewest pixels of a side that the architecture can work with.

    Raises:
        RecipeError: if inputs are not [channels, height, width], or a side is shorter.
    """
    shape = signature.shape
    if len(shape) != 3 or min(shape[1:]) < least_side:
        wanted = f"images [channels, height, width] of at least {least_side}×{least_side}"
        raise misfit(name, wanted, signature)
    channels, height, width = shape
    return channels, height, width


def misfit(name: str, wanted: str, signature: Signature) -> RecipeError:
    """Word the error for an input that the architecture cannot take, with one that can."""
    shape = signature.shape
    remedy = "Choose `mlp`, which takes any shape."
    if len(shape) in (2, 3) and min(shape[1:]) >= LEAST_IMAGE_SIDE and name != "cnn-small":
        remedy = "Choose `cnn-small`, or `mlp`, which takes any shape."
    return RecipeError(f"{name} takes {wanted}; this teacher takes {list(shape)}", remedy=remedy)


def positive(name: str, **hyper: int) -> None:
    """Check that every given hyperparameter is 1 or more.

    Raises:
        RecipeError: if one is not.
    """
    for key, value in hyper.items():
        if value < 1:
            raise RecipeError(f"{name} cannot have {key} {value}", remedy=f"Set `{key}` to 1 or more.")
