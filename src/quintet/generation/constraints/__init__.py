"""Structured output: results that are one of some answers, match a regular expression, or follow a JSON schema."""

from quintet.generation.constraints.building import build_constraint
from quintet.generation.constraints.processor import Constraint

__all__ = ["Constraint", "build_constraint"]
