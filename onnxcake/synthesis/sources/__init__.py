"""List the sources of samples by their recipe keys: what is optimised, and how it becomes samples."""

from ..step import Parts
from .boundary import Boundary
from .data import Data
from .generator import Generator
from .latent import Latent, MetaLatent
from .noise import Noise
from .noisy_layer import NoisyLayer
from .pixels import Pixels
from .pool import Pool

SOURCES: Parts = {
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
