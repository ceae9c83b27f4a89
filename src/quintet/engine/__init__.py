"""The CPU's native code: inference, as the decoding protocol's second implementation, and products for training.

It knows no model: a `Plan` is built from a configuration and named tensors.
"""

from quintet.engine.gemm import can_gemm, gemm_into, has_gemm
from quintet.engine.library import Library, load_library
from quintet.engine.plan import CACHE_DTYPES, Plan, Unsupported
from quintet.engine.session import NativeSession, encode

__all__ = [
    "CACHE_DTYPES",
    "Library",
    "NativeSession",
    "Plan",
    "Unsupported",
    "can_gemm",
    "encode",
    "gemm_into",
    "has_gemm",
    "load_library",
]
