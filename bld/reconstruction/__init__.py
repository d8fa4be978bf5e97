"""Background reconstruction (paper, section 3.4): one room a method."""

from .decoder import tune_decoder
from .latent import tune_latent
from .paste import paste

__all__ = ["paste", "tune_decoder", "tune_latent"]
