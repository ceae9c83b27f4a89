"""Fixtures for tests of the native engine."""

from collections.abc import Iterator

import pytest
import torch

from tests.engine.native import INSTRUCTION_SETS, library, using


@pytest.fixture(scope="module", autouse=True)
def _needs_the_library() -> None:
    if library is None:
        pytest.skip("the native engine was not built: there was no C++ compiler when quintet was installed")


@pytest.fixture(params=INSTRUCTION_SETS, scope="module")
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor has, in turn."""
    with using(request.param):
        yield request.param


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes on two threads, and so does the engine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
