"""quintet: the T5 family of text-to-text transformers as one small, fast library."""

from quintet._version import __version__

__all__ = ["__version__"]
