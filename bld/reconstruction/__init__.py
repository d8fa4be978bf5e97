"""Background reconstruction (paper, section 3.4): one room a method."""

from .colour import colour_fit
from .decoder import tune_decoder
from .latent import tune_latent
from .paste import paste
from .poisson import poisson

__all__ = ["colour_fit", "paste", "poisson", "tune_decoder", "tune_latent"]
