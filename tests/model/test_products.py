"""Both ways to compute products in half precision beside each other, and each beside a product in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quintet.model import products
from quintet.model.autocast import CastProduct


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that PyTorch's products are computed in all the ways there are."""
    monkeypatch.setattr(products, "LONG_SUM", 100)
    monkeypatch.setattr(products, "ROWS_AT_ONCE", 7)


def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("inner", [30, 130])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_multiply(multiplier: str, inner: int, dtype: torch.dtype) -> None:
    left, weight = numbers(20, inner), numbers(25, inner, dtype=torch.float32, seed=1)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_types_are_pytorchs(multiplier: str, dtype: torch.dtype) -> None:
    left, right = numbers(3, 4, dtype=dtype), numbers(4, 5, dtype=dtype, seed=1)
    assert not products.is_native(left)
    assert torch.equal(products.multiply(left, right, dtype), left @ right)


def test_a_cast_product_and_its_gradients(multiplier: str) -> None:
    states = numbers(4, 6, 24, dtype=torch.float32).requires_grad_()
    weight = numbers(10, 24, dtype=torch.float32, seed=1).requires_grad_()
    gradient = numbers(4, 10, 6, seed=2).transpose(1, 2)
    found = CastProduct.apply(states, weight, torch.bfloat16)
    found.backward(gradient)
    assert found.dtype == torch.bfloat16
    assert states.grad.dtype == weight.grad.dtype == torch.float32
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
