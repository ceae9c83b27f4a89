"""Both ways to compute products in half precision beside each other, and each beside a product in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from quintet.model import products
from quintet.model.autocast import CastProduct


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that PyTorch's products are added in several parts."""
    monkeypatch.setattr(products, "ROWS_AT_ONCE", 7)


def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16, torch.float64])
def test_multiply(multiplier: str, dtype: torch.dtype) -> None:
    left, weight = numbers(20, 30), numbers(25, 30, dtype=torch.float32, seed=1)
    right = products.factor(weight, left)
    assert (right is weight) == (multiplier == "engine")
    found = products.multiply(left, right.t(), dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), left.double() @ weight.bfloat16().double().t(), rtol=0.01, atol=0.05)


@pytest.mark.parametrize(("dtype", "adds"), [(torch.bfloat16, False), (torch.float32, False), (torch.float32, True)])
def test_multiply_into(multiplier: str, dtype: torch.dtype, adds: bool) -> None:
    left, right = numbers(30, 40).t(), numbers(30, 9, seed=1)
    result = numbers(40, 9, dtype=dtype, seed=2)
    wanted = left.double() @ right.double() + (result.double() if adds else 0)
    products.multiply_into(result, left, right, adds=adds)
    torch.testing.assert_close(result.double(), wanted, rtol=0.01, atol=0.05)


class Other(torch.Tensor):
    """A tensor of which only PyTorch's own operations know how it is stored."""


def test_what_the_engine_does_not_know_is_pytorchs(multiplier: str) -> None:
    left, right = numbers(3, 4), numbers(4, 5, seed=1)
    assert products.is_native(left, right) == (multiplier == "engine")
    for dtype in (torch.float32, torch.float16):
        assert not products.is_native(left.to(dtype), right)
    for other in (right.half(), right.to("meta"), right.as_subclass(Other)):
        assert not products.is_native(left, other)
    assert torch.equal(products.multiply(left.half(), right.half(), torch.float16), left.half() @ right.half())


def test_tensors_without_numbers(multiplier: str) -> None:
    """Under FakeTensorMode, in which shapes are found out, they say that they are on the CPU."""
    with FakeTensorMode():
        states, weight = torch.randn(2, 3, 8), torch.randn(6, 8, requires_grad=True)
        found = CastProduct.apply(states, weight, torch.bfloat16)
        found.sum().backward()
    assert found.shape == (2, 3, 6)
    assert weight.grad.shape == (6, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_product_and_its_gradients(multiplier: str, dtype: torch.dtype) -> None:
    states = numbers(4, 6, 24, dtype=dtype).requires_grad_()
    weight = numbers(10, 24, dtype=dtype, seed=1).requires_grad_()
    gradient = numbers(4, 10, 6, seed=2).transpose(1, 2)
    found = CastProduct.apply(states, weight, torch.bfloat16)
    found.backward(gradient)
    assert found.dtype == torch.bfloat16
    assert states.grad.dtype == weight.grad.dtype == dtype
    exact_states, exact_weight = (one.detach().bfloat16().double().requires_grad_() for one in (states, weight))
    exact = exact_states @ exact_weight.t()
    exact.backward(gradient.double())
    for ours, theirs in ((found, exact), (states.grad, exact_states.grad), (weight.grad, exact_weight.grad)):
        torch.testing.assert_close(ours.double(), theirs, rtol=0.01, atol=0.05)


def test_a_batch_of_nothing_and_states_without_a_batch(multiplier: str) -> None:
    weight = numbers(10, 24, dtype=torch.float32).requires_grad_()
    CastProduct.apply(numbers(0, 5, 24), weight, torch.bfloat16).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(10, 24))
    states = numbers(24)
    CastProduct.apply(states, weight, torch.bfloat16).sum().backward()
    assert torch.equal(weight.grad, states.float().expand(10, 24))
