"""The files of a saved model: what they are called, and how a folder of them is rewritten all or nothing. No torch."""

from quintet.files.reading import read_json
from quintet.files.staging import staged

__all__ = ["read_json", "staged"]
