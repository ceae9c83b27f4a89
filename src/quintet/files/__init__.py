"""The files of a saved model: their names, headers, and how a folder is rewritten all or nothing. No torch."""

from quintet.files.reading import read_json
from quintet.files.staging import new_folder, staged

__all__ = ["new_folder", "read_json", "staged"]
