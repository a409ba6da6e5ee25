"""dsjax: how a post-training objective shares its gradient between answering and deciding."""

from dsjax.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "__version__"]
