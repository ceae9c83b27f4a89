"""The compiled library, and its C structures as Python sees them (native/quintet.h says what they mean)."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}
"""quintet_type; of int4 there are two in a byte."""

PATH = Path(__file__).with_name("libquintet.so")
VERSION = 3  # QUINTET_VERSION of the header that this file follows


class Matrix(ctypes.Structure):
    """quintet_matrix."""

    _fields_ = [
        ("data", c_void_p),
        ("scale", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("type", c_int32),
        ("group", c_int32),
        ("scale_type", c_int32),
    ]


class Attention(ctypes.Structure):
    """quintet_attention."""

    _fields_ = [(name, Matrix) for name in ("norm", "query", "key", "value", "output")]
    _fields_ += [("bias", c_void_p), ("reach", c_int64)]


class FeedForward(ctypes.Structure):
    """quintet_feed_forward."""

    _fields_ = [*((name, Matrix) for name in ("norm", "gate", "up", "down")), ("activation", c_int32)]


class Layer(ctypes.Structure):
    """quintet_layer."""

    _fields_ = [("own", Attention), ("cross", Attention), ("feed_forward", FeedForward)]


class Stack(ctypes.Structure):
    """quintet_stack."""

    _fields_ = [("embedding", Matrix), ("norm", Matrix), ("layers", POINTER(Layer)), ("count", c_int64)]


class Model(ctypes.Structure):
    """quintet_model."""

    _fields_ = [
        ("encoder", Stack),
        ("decoder", Stack),
        ("head", Matrix),
        ("head_scale", c_float),
        ("epsilon", c_float),
        ("d_model", c_int64),
        ("heads", c_int64),
        ("d_kv", c_int64),
        ("narrow", c_int32),
        ("cache_type", c_int32),
    ]


class View(ctypes.Structure):
    """quintet_view."""

    _fields_ = [
        ("data", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("row_stride", c_int64),
        ("column_stride", c_int64),
        ("type", c_int32),
    ]


class Library:
    """The functions of the compiled library; they raise RuntimeError with the library's own message.

    Calls let other Python threads run. Each is computed by as many threads as torch uses, but no more than the process
    may use at once.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError for a file that is no such library, or one of another version's."""
        self._library = library = ctypes.CDLL(str(path))
        if not hasattr(library, "quintet_version") or library.quintet_version() != VERSION:
            raise OSError(f"{path} was built from another version of quintet: install it again")
        pointer = c_void_p
        for name, result, arguments in (
            ("error", c_char_p, []),
            ("instruction_set", c_char_p, []),
            ("set_instruction_set", ctypes.c_int, [c_char_p]),
            ("set_threads", ctypes.c_int, [c_int64]),
            ("use_openmp", None, [pointer, pointer, pointer]),
            ("multiply", ctypes.c_int, [POINTER(Matrix), pointer, c_int64, c_int32, pointer]),
            ("gemm", ctypes.c_int, [POINTER(View), POINTER(View), POINTER(View), c_int32]),
            ("encode", ctypes.c_int, [POINTER(Model), pointer, pointer, pointer, pointer, c_int64, pointer]),
            ("session_new", c_void_p, [POINTER(Model), pointer, pointer, c_int64]),
            ("session_step", ctypes.c_int, [c_void_p, pointer, c_int64, c_int32, pointer, pointer]),
            ("session_select", ctypes.c_int, [c_void_p, pointer, c_int64]),
            ("session_crop", ctypes.c_int, [c_void_p, c_int64]),
            ("session_free", None, [c_void_p]),
        ):
            function = getattr(library, f"quintet_{name}")
            function.restype, function.argtypes = result, arguments
        if library.quintet_instruction_set() is None:
            raise self._error()
        openmp = torch_openmp()
        if openmp is not None:
            library.quintet_use_openmp(*(ctypes.cast(getattr(openmp, name), c_void_p) for name in OPENMP))

    @property
    def instruction_set(self) -> str:
        """portable, avx2, avx512 or amx: the best there is, or what the environment variable QUINTET_ISA names."""
        return self._library.quintet_instruction_set().decode()

    @instruction_set.setter
    def instruction_set(self, name: str) -> None:
        self._check(self._library.quintet_set_instruction_set(name.encode()))

    def multiply(self, matrix: Matrix, *arguments: int) -> None:
        """quintet_multiply."""
        self._set_threads()
        self._check(self._library.quintet_multiply(ctypes.byref(matrix), *arguments))

    def gemm(self, left: View, right: View, result: View, adds: bool) -> None:
        """quintet_gemm."""
        self._set_threads()
        self._check(self._library.quintet_gemm(left, right, result, adds))

    def encode(self, model: Model, *arguments: int | None) -> None:
        """quintet_encode."""
        self._set_threads()
        self._check(self._library.quintet_encode(ctypes.byref(model), *arguments))

    def session_new(self, model: Model, *arguments: int) -> int:
        """quintet_session_new."""
        self._set_threads()
        session = self._library.quintet_session_new(ctypes.byref(model), *arguments)
        if session is None:
            raise self._error()
        return session

    def session_step(self, session: int, *arguments: int | None) -> None:
        """quintet_session_step."""
        self._check(self._library.quintet_session_step(session, *arguments))

    def session_select(self, session: int, rows: int, count: int) -> None:
        """quintet_session_select."""
        self._check(self._library.quintet_session_select(session, rows, count))

    def session_crop(self, session: int, length: int) -> None:
        """quintet_session_crop."""
        self._check(self._library.quintet_session_crop(session, length))

    def session_free(self, session: int) -> None:
        """quintet_session_free."""
        self._library.quintet_session_free(session)

    def _set_threads(self) -> None:
        self._check(self._library.quintet_set_threads(min(torch.get_num_threads(), usable_processors())))

    def _check(self, status: int) -> None:
        if status != 0:
            raise self._error()

    def _error(self) -> RuntimeError:
        return RuntimeError(self._library.quintet_error().decode())


OPENMP = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


def torch_openmp() -> ctypes.CDLL | None:
    """Where the functions `OPENMP` are found that torch itself computes with, on Linux, if it has them.

    After each parallel operation OpenMP's threads go on waiting at full speed for a while. Between two steps of a
    decoder there are such operations, and threads of our own would have to share the processors with the waiting ones.
    A process may have several such libraries, other packages bring their own. Torch's is the one that all of the
    process may use (torch loads it so, and is itself bound to it first), else what it was linked with.
    """
    if sys.platform != "linux":
        return None
    for path in (None, torch._C.__file__):
        library = ctypes.CDLL(path)
        if all(hasattr(library, name) for name in OPENMP):
            return library
    return None


def usable_processors() -> int:
    """How many processors this process may use at once, by its affinity and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_quota()
    return count if quota is None else max(1, min(count, int(quota + 0.5)))


@functools.cache
def _container_quota() -> float | None:
    """Processors' time that a container may take, of control groups version 2, or 1."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        limit, period = ((folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        return None if int(limit) < 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None


@functools.cache
def load_library() -> Library | None:
    """The library; None, said once, if there was no compiler when quintet was installed, or if it cannot be loaded."""
    if not PATH.exists():
        logger.warning("the native engine was not built (no C++ compiler?): models compute with PyTorch's operations")
        return None
    try:
        return Library(PATH)
    except OSError as error:  # made for another system's libraries, or left from an older quintet
        logger.warning("the native engine cannot be loaded (%s): models compute with PyTorch's operations", error)
        return None
