"""Optimisers beside the reference's, beside torch's, and beside their formulas in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer
from transformers.optimization import Adafactor as ReferenceAdafactor

import quintet
from quintet.training.optimizers import Adafactor, ScaledAdamW, adafactor, divides_gradients, freeze, parameter_groups

from ..model.reference import build

SHAPES = [(7, 5), (5,), (6, 4), (1, 3), (2, 3, 4), ()]
FIXED: dict[str, Any] = {"lr": 1e-3, "relative_step": False}


def parameters(dtype: torch.dtype = torch.float32, scale: float = 0.3) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    drawn = [nn.Parameter((scale * torch.randn(shape, generator=generator)).to(dtype)) for shape in SHAPES]
    return [*drawn, nn.Parameter(torch.zeros(3, 2, dtype=dtype))]  # as biases and adapters start


def draw_gradients(chosen: list[nn.Parameter], steps: int, seed: int = 1) -> Iterator[None]:
    """Gradients of changing size; the first matrix is an embedding of which each step saw a few rows."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for index, parameter in enumerate(chosen):
            gradient = torch.randn(parameter.shape, generator=generator) * 10.0 ** (step % 4 - 3)
            if index == 0:
                gradient[torch.arange(len(gradient)) % 3 != step % 3] = 0
            parameter.grad = gradient.to(parameter.dtype)
        yield


def copies(chosen: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(parameter.detach().clone()) for parameter in chosen]


ADAFACTOR: dict[str, dict[str, Any]] = {
    "relative": {},
    "warm": {"warmup_init": True},
    "relative, no scale": {"scale_parameter": False},
    "fixed": {**FIXED, "scale_parameter": False},
    "fixed, scaled": FIXED,
    "momentum": {**FIXED, "beta1": 0.9},
    "decay": {**FIXED, "weight_decay": 0.1},
    "rest": {"eps": (1e-8, 1e-2), "clip_threshold": 0.5, "decay_rate": -0.6},
}


@pytest.mark.parametrize("in_cache", [None, 10], ids=["whole", "in parts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ADAFACTOR)
def test_adafactor_is_the_references_over_100_steps(
    name: str, dtype: torch.dtype, in_cache: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_cache is not None:
        monkeypatch.setattr(adafactor, "IN_CACHE", max(1, in_cache // torch.get_num_threads()))
    ours = parameters(dtype)
    theirs = copies(ours)
    optimizers = Adafactor(ours, **ADAFACTOR[name]), ReferenceAdafactor(theirs, **ADAFACTOR[name])
    start = copies(ours)
    for _ in zip(draw_gradients(ours, 100), draw_gradients(theirs, 100), strict=True):
        for optimizer in optimizers:
            optimizer.step()
        # In bfloat16 a difference of 1e-7 rarely, but now and then, rounds to the neighbour; the next steps share it.
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(ours, theirs, atol=tolerance / 10, rtol=tolerance)
    moved = [not torch.equal(before, after) for before, after in zip(start, ours, strict=True)]
    assert all(moved) if dtype == torch.float32 else any(moved)  # bfloat16 rounds small steps away


class LargestMade(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that an operation makes, apart from views and changes in place."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result._is_view() and not function._schema.is_mutable:
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_adafactor_makes_nothing_as_large_as_a_table(beta1: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    table = nn.Parameter(torch.randn(100, 4))
    optimizer = Adafactor([table], lr=1e-3, relative_step=False, beta1=beta1)
    table.grad = torch.randn(100, 4)
    optimizer.step()  # makes its state
    with LargestMade() as whole:
        optimizer.step()
    assert whole.numbers == table.numel()
    monkeypatch.setattr(adafactor, "IN_CACHE", 40 // torch.get_num_threads())
    with LargestMade() as in_parts:
        optimizer.step()
    assert in_parts.numbers == 100  # a factor for each row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 1e-3}, "give lr or relative_step=True, not both"),
        ({"relative_step": False}, "relative_step=False needs a learning rate"),
        ({**FIXED, "warmup_init": True}, "warmup_init=True needs relative_step=True"),
    ],
)
def test_adafactor_refuses_contradictions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adafactor(parameters(), **options)
    with pytest.raises(ValueError, match=message):
        Adafactor([{"params": parameters(), **options}])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_scaled_adamw_is_adamw_with_a_rate_per_parameter(weight_decay: float) -> None:
    """torch's AdamW, told before each step how large each parameter is."""
    ours = parameters()
    theirs = copies(ours)
    optimizer = ScaledAdamW(ours, lr=1e-2, weight_decay=weight_decay)
    reference = torch.optim.AdamW([{"params": [parameter]} for parameter in theirs], foreach=False)
    for _ in zip(draw_gradients(ours, 50), draw_gradients(theirs, 50), strict=True):
        for group in reference.param_groups:
            scale = max(1e-3, group["params"][0].square().mean().sqrt().item())
            group.update(lr=1e-2 * scale, weight_decay=weight_decay / scale)
        optimizer.step()
        reference.step()
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)


def test_kahan_sums_follow_float32_where_bfloat16_stands_still() -> None:
    """A step of 1e-4 of the weights is lost in bfloat16's 8 bits; a thousand of them are a tenth."""
    exact = [nn.Parameter(torch.full((4, 4), 1.0))]
    summed, rounded = ([nn.Parameter(exact[0].detach().bfloat16())] for _ in range(2))
    optimizers = [ScaledAdamW(exact, lr=1e-4), ScaledAdamW(summed, lr=1e-4), torch.optim.AdamW(rounded, lr=1e-4)]
    for _ in range(1000):
        for parameter in (*exact, *summed, *rounded):
            parameter.grad = torch.ones_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
    assert 0.90 < exact[0].mean() < 0.91
    torch.testing.assert_close(summed[0].float(), exact[0], atol=0, rtol=2**-8)
    kept = optimizers[1].state[summed[0]]["rounded_off"]
    assert kept.dtype == torch.bfloat16
    torch.testing.assert_close(summed[0].float() + kept.float(), exact[0], atol=0, rtol=1e-3)
    assert torch.equal(rounded[0].float(), torch.ones(4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must not be negative, got -1.0"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"betas": (0.9, 1.0)}, r"betas must be at least 0 and below 1, got \(0.9, 1.0\)"),
    ],
)
def test_scaled_adamw_refuses_values_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaledAdamW(parameters(), **options)


MAKERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adafactor": lambda chosen: Adafactor(chosen, beta1=0.9),
    "scaled adamw": ScaledAdamW,
}


DIVIDING: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    **MAKERS,
    "adafactor without momentum": lambda chosen: Adafactor(chosen, **FIXED),
    "torch's adamw": lambda chosen: torch.optim.AdamW(chosen, fused=True),
}


@pytest.mark.parametrize("name", DIVIDING)
def test_gradients_divided_in_the_step_move_what_gradients_divided_before_do(name: str) -> None:
    ours = parameters()
    theirs = copies(ours)
    dividing, plain = DIVIDING[name](ours), DIVIDING[name](theirs)
    assert divides_gradients(dividing)
    for step, _ in enumerate(zip(draw_gradients(ours, 8), draw_gradients(theirs, 8), strict=True)):
        divisor = 1.0 + 100 * (step % 3)
        dividing.grad_scale = torch.tensor(divisor) if step % 3 else None  # type: ignore[attr-defined]
        for parameter in theirs:
            cast(Tensor, parameter.grad).div_(divisor)
        dividing.step()
        plain.step()
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)


def test_optimizers_that_do_not_divide_gradients_are_known() -> None:
    """Wrappers too, which have the arguments of what they wrap, and hand no attribute on."""
    chosen = parameters()
    wrapper = torch.optim.Optimizer(chosen, {"lr": 1e-3, "fused": True})
    mixed = torch.optim.AdamW([{"params": chosen[:1], "fused": False}, {"params": chosen[1:]}], fused=True)
    for optimizer in (torch.optim.SGD(chosen), torch.optim.AdamW(chosen), wrapper, mixed):
        assert not divides_gradients(optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_state_goes_on_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    chosen = parameters(dtype)
    optimizer = MAKERS[name](chosen)
    for _ in draw_gradients(chosen, 3):
        optimizer.step()
    resumed = copies(chosen)
    successor = MAKERS[name](resumed)
    successor.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in zip(draw_gradients(chosen, 3, seed=2), draw_gradients(resumed, 3, seed=2), strict=True):
        optimizer.step()
        successor.step()
    assert all(torch.equal(one, other) for one, other in zip(chosen, resumed, strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_a_loaded_state_shares_no_memory_with_what_was_saved(name: str) -> None:
    chosen = parameters()
    optimizer, successor = MAKERS[name](chosen), MAKERS[name](copies(chosen))
    for _ in draw_gradients(chosen, 1):
        optimizer.step()
    successor.load_state_dict(optimizer.state_dict())
    places = [
        {value.data_ptr() for state in one.state.values() for value in state.values()} for one in (optimizer, successor)
    ]
    assert not places[0] & places[1]


@pytest.mark.parametrize("name", MAKERS)
def test_a_closure_computes_the_loss_with_gradients(name: str) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = MAKERS[name]([weight])

    def closure() -> Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3
    assert (weight < 1).all()


@pytest.mark.parametrize("name", MAKERS)
def test_parameters_without_a_gradient_stay_and_sparse_gradients_are_refused(name: str) -> None:
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    used.grad = torch.ones(3)
    optimizer = MAKERS[name]([used, unused])
    optimizer.step()
    assert (used < 1).all()
    assert torch.equal(unused, torch.ones(3))
    MAKERS[name]([nn.Parameter(torch.ones(3))]).step()  # nothing to do at all
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="needs dense gradients"):
        MAKERS[name](embedding.parameters()).step()


def model(variant: str = "t5") -> Any:
    return build(quintet, "ForConditionalGeneration", variant)


def test_what_decays_is_what_the_references_trainer_lets_decay() -> None:
    theirs = build(transformers, "ForConditionalGeneration", "v1.1")
    theirs_alone = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}  # further names of `shared`
    wanted = set(Trainer.get_decay_parameter_names(None, theirs)) - theirs_alone
    ours = model("v1.1")
    names = {parameter: name for name, parameter in ours.named_parameters()}
    decaying, still = parameter_groups(ours, 0.1)
    assert {names[parameter] for parameter in decaying["params"]} == wanted
    assert {names[parameter] for parameter in still["params"]} == set(names.values()) - wanted
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.1, 0.0)


def frozen(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("names", "prefixes"),
    [
        (["encoder"], ["encoder."]),
        (["encoder.block.1"], ["encoder.block.1."]),
        (["*.block.[0-0]"], ["encoder.block.0.", "decoder.block.0."]),
        (["decoder.block.*.layer.1"], ["decoder.block.0.layer.1.", "decoder.block.1.layer.1."]),
        (["lm_head", "shared.weight"], ["lm_head.", "shared."]),
    ],
)
def test_frozen_parts_are_those_named(names: list[str], prefixes: list[str]) -> None:
    network = model("v1.1")
    count = freeze(network, names)
    wanted = {name for name, _ in network.named_parameters() if name.startswith(tuple(prefixes))}
    # The stacks' embed_tokens are `shared` itself, which has its first name in the model.
    shared = {"shared.weight"} if names == ["encoder"] else set()
    assert frozen(network) == wanted | shared
    assert count == sum(p.numel() for name, p in network.named_parameters() if name in wanted | shared)
    groups = parameter_groups(network, 0.0)
    assert sum(p.numel() for group in groups for p in group["params"]) == network.num_parameters() - count


def test_freezing_refuses_unknown_parts_and_training_nothing() -> None:
    network = model()
    for name in ("encoder.block.7", "block", "encoder.block.0.layer.0.SelfAttention.q.weight.x"):
        with pytest.raises(ValueError, match=f"nothing to freeze is called '{name}'; the model's parts are shared,"):
            freeze(network, ["shared", name])
    freeze(network, ["*"])
    with pytest.raises(ValueError, match="no parameter is left to train"):
        parameter_groups(network, 0.0)
