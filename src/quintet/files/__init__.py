"""The files of a saved model: their names, headers, and how a folder is rewritten all or nothing. No torch."""

from quintet.files.reading import read_json
from quintet.files.staging import staged

__all__ = ["read_json", "staged"]
