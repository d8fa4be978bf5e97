"""Background reconstruction (paper, section 3.4): one room a method."""

from .auto import best_of, cheapest
from .colour import colour_fit
from .decoder import draw, look_at, tune_decoder
from .follow import follow, with_thin
from .in_pixels import IN_PIXELS
from .latent import tune_latent
from .objective import Settings
from .paste import paste
from .poisson import poisson

__all__ = [
    "IN_PIXELS",
    "Settings",
    "best_of",
    "cheapest",
    "colour_fit",
    "draw",
    "follow",
    "look_at",
    "paste",
    "poisson",
    "tune_decoder",
    "tune_latent",
    "with_thin",
]
