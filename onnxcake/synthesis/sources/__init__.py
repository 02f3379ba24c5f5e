"""List the sources of samples by their recipe keys: what is optimised, and how it becomes samples."""

import dataclasses

from ...core.extensions import Registry
from ..source import Source
from .boundary import Boundary
from .data import Data
from .generator import Generator
from .latent import Latent, MetaLatent
from .noise import Noise
from .noisy_layer import NoisyLayer
from .pixels import Pixels
from .pool import Pool


def _misfit(made: object) -> str | None:
    fits = isinstance(made, type) and issubclass(made, Source) and dataclasses.is_dataclass(made)
    return None if fits else "a dataclass that inherits onnxcake.synthesis.source.Source"


_BUILT_IN: dict[str, type] = {
    "boundary": Boundary,
    "data": Data,
    "generator": Generator,
    "latent": Latent,
    "meta_latent": MetaLatent,
    "noise": Noise,
    "noisy_layer": NoisyLayer,
    "pixels": Pixels,
    "pool": Pool,
}
SOURCES = Registry("onnxcake.sources", _misfit, _BUILT_IN)
