"""Fixtures every test may use."""

import os
import signal
from pathlib import Path

# Tests are small: one thread each is fastest, and several workers with several threads each would wait for each other.
# Set before torch is imported, and for the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A run in the background ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run, and no complaint about a busy machine: neither says anything about the code.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout: a real checkpoint, real vocabularies, real text."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout (real vocabularies and a trained checkpoint)")
    return SHARED


@pytest.fixture(params=["torch", "engine"])
def multiplier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who multiplies in bfloat16 for training (model/products.py): the engine can on all processors, fast or not."""
    from quintet.engine import load_library
    from quintet.model import products

    if request.param == "engine" and load_library() is None:
        pytest.skip("the native engine was not built: there was no C++ compiler when quintet was installed")
    monkeypatch.setattr(products, "has_gemm", lambda: request.param == "engine")
    return request.param
