"""Products of the native kernels against plain float64 arithmetic on the numbers as they are rounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quintet.engine.library import Matrix
from quintet.quantize.packing import dequantize, quantize
from tests.engine.native import ALL_SETS, INSTRUCTION_SETS, library, using

UNIT = 2.0**-24  # half the distance of float32's neighbours, relative
TYPES = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}


@dataclass
class Weights:
    """A matrix as the engine stores it, and the same numbers in float64: `integers` times `scale`, or floats."""

    kind: str
    stored: torch.Tensor
    scale: torch.Tensor | None = None
    group: int = 0

    @property
    def outputs(self) -> int:
        return self.stored.shape[0]

    @property
    def inputs(self) -> int:
        return self.stored.shape[1] * (2 if self.kind == "int4" else 1)

    @property
    def matrix(self) -> Matrix:
        matrix = Matrix(self.stored.data_ptr(), None, self.outputs, self.inputs, TYPES[self.kind], self.group)
        if self.scale is not None:
            matrix.scale, matrix.scale_type = self.scale.data_ptr(), TYPES[str(self.scale.dtype)[6:]]
        return matrix

    def plain(self) -> np.ndarray:
        """(outputs, inputs) in float64; a scale times an integer is exact there."""
        if self.scale is None:
            return self.stored.double().numpy()
        return dequantize(self.stored, self.scale.double()).numpy()


def make_weights(kind: str, outputs: int, inputs: int, seed: int, group: int | None = None) -> Weights:
    """Random ones; integers of an odd seed have their scales in bfloat16."""
    floats = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    if kind in ("float32", "bfloat16"):
        return Weights(kind, floats.to(getattr(torch, kind)))
    integers, scale = quantize(
        floats, 8 if kind == "int8" else 4, group or inputs, torch.bfloat16 if seed % 2 else torch.float32
    )
    return Weights(kind, integers, scale, group or 0)


def multiply(weights: Weights, x: torch.Tensor, many: bool) -> np.ndarray:
    """What the engine computes, behind which nothing may be written."""
    guard = 12345.0
    result = torch.full((x.shape[0] + 1, weights.outputs), guard)
    library.multiply(weights.matrix, x.data_ptr(), x.shape[0], many, result.data_ptr())
    assert (result[-1] == guard).all()
    return result[:-1].double().numpy()


def check(weights: Weights, x: torch.Tensor, many: bool) -> None:
    """The engine's product lies within the rounding errors of float32 sums around the exact one."""
    exact, slack = expected(weights, x, many)
    error = np.abs(multiply(weights, x, many) - exact)
    assert (error <= slack).all(), f"{weights.kind}: {error.max()} off, at {np.argwhere(error > slack)[0]}"


def becomes_bfloat16(weights: Weights, many: bool) -> bool:
    """With AMX many tokens meet int4 as bfloat16, with its scales, which leaves them as they are."""
    return weights.kind == "int4" and many and library.instruction_set == "amx"


def expected(weights: Weights, x: torch.Tensor, many: bool) -> tuple[np.ndarray, np.ndarray]:
    """The product (tokens, outputs) of the numbers as they are rounded, and how far from it a result may lie."""
    if becomes_bfloat16(weights, many):
        assert weights.scale is not None
        weights = Weights("bfloat16", dequantize(weights.stored, weights.scale.float()).bfloat16())
    plain = weights.plain()
    if weights.scale is None:
        numbers = x.to(weights.stored.dtype).double().numpy()
        return numbers @ plain.T, 2 * (weights.inputs + 2) * UNIT * (np.abs(numbers) @ np.abs(plain).T) + 1e-37
    scale = np.abs(x.double().numpy()).max(axis=1, keepdims=True) / 127
    ratio = np.divide(x.double().numpy(), scale, out=np.zeros(x.shape), where=scale > 0)
    integers = np.rint(ratio)
    # What lies half way between two integers, but for float32's rounding, may become either.
    between = np.abs(np.abs(ratio - integers) - 0.5) < 1e-4
    sums = scale * (np.abs(integers) @ np.abs(plain).T)
    groups = weights.inputs // (weights.group or weights.inputs)
    return scale * (integers @ plain.T), scale * (between @ np.abs(plain).T) + (groups + 6) * UNIT * sums


def numbers(tokens: int, inputs: int, seed: int) -> torch.Tensor:
    """Tokens (tokens, inputs) of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, inputs, generator=generator) * 10 ** torch.linspace(-3, 3, tokens)[:, None]


isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)
many = pytest.mark.parametrize("many", [False, True])
shapes = given(
    outputs=st.integers(1, 70), inputs=st.integers(1, 200), tokens=st.integers(1, 50), seed=st.integers(0, 9999)
)


@isa
@many
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@settings(max_examples=12)
@shapes
def test_products_of_any_shape(isa, many, kind, outputs, inputs, tokens, seed):
    with using(isa):
        check(make_weights(kind, outputs, inputs, seed), numbers(tokens, inputs, seed + 1), many)


@isa
@many
@pytest.mark.parametrize("group", [16, 32, 64, 128, None])
@settings(max_examples=8)
@shapes
def test_products_with_int4_of_any_shape(isa, many, group, outputs, inputs, tokens, seed):
    inputs = -(-inputs // (group or 8)) * (group or 8)
    with using(isa):
        check(make_weights("int4", outputs, inputs, seed, group), numbers(tokens, inputs, seed + 1), many)


@isa
@many
@pytest.mark.parametrize("kind", list(TYPES))
def test_many_inputs_and_two_threads(isa, many, kind):
    """Longer than any loop is unrolled, and shared between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with using(isa):
            group = 32 if kind == "int4" else None
            check(make_weights(kind, 301, 1504, 0, group), numbers(37, 1504, 1), many)
    finally:
        torch.set_num_threads(before)


@isa
@pytest.mark.parametrize(("inputs", "group"), [(2080, 32), (4096, 2048), (1096, None)])
def test_int4_rows_that_are_unpacked_in_pieces(isa, inputs, group):
    """A piece ends between groups, within one, and before a last one that fills no vector."""
    with using(isa):
        check(make_weights("int4", 35, inputs, 0, group), numbers(37, inputs, 1), many=True)


@isa
@many
@pytest.mark.parametrize("inputs", [3, 64, 1021])
def test_the_lowest_int8_meets_the_largest_numbers(isa, many, inputs):
    """-128 times 127 twice is what 16-bit sums of an instruction set saturate at, if the kernel lets them."""
    weights = Weights("int8", torch.full((9, inputs), -128, dtype=torch.int8), torch.full((9, 1), 0.5))
    x = torch.full((5, inputs), 127.0)
    x[1::2] = -127.0
    with using(isa):
        found = multiply(weights, x, many)
    assert (found == np.where(x[:, :1] > 0, -64.0, 64.0) * 127 * inputs).all()


@isa
@many
@pytest.mark.parametrize("group", [16, 64, None])
def test_the_ends_of_int4(isa, many, group):
    integers = torch.tensor([0x00, 0xFF, 0x0F, 0xF0], dtype=torch.uint8)[:, None].expand(4, 64).contiguous()
    weights = Weights("int4", integers, torch.full((4, 1 if group is None else 128 // group), 0.25), group or 0)
    x = torch.full((3, 128), 127.0)
    x[1, 1::2] = -127.0  # odd inputs have the upper half of a byte
    x[2] = -127.0
    low, high = np.array([-8, 7, 7, -8.0]), np.array([-8, 7, -8, 7.0])
    with using(isa):
        found = multiply(weights, x, many)
    assert (found == 0.25 * 127 * 64 * np.stack([low + high, low - high, -low - high])).all()


@isa
@many
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_halves_are_rounded_to_even(isa, many, kind):
    x = torch.zeros(1, 32)
    x[0, :8] = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5])
    x[0, 31] = 3.5
    weights = make_weights(kind, 6, 32, 3)
    rounded = weights.plain() @ np.rint(x.double().numpy()[0])
    with using(isa):
        if becomes_bfloat16(weights, many):
            check(weights, x, many)
            return
        np.testing.assert_allclose(multiply(weights, x, many)[0], rounded, rtol=1e-6, atol=1e-5)


@isa
@many
def test_bfloat16_is_rounded_to_the_nearest_even(isa, many):
    """By the definition, not by torch: 1 + 2^-8 lies half way between 1 and 1 + 2^-7."""
    step = 2.0**-7
    x = torch.tensor([[1 + step / 2, 1 + step * 1.5, 1 + step * 0.51, -1 - step / 2, 1 + step * 0.49]]).T.contiguous()
    weights = Weights("bfloat16", torch.ones(1, 1, dtype=torch.bfloat16))
    with using(isa):
        found = multiply(weights, x, many)[:, 0]
    assert found.tolist() == [1.0, 1 + 2 * step, 1 + step, -1.0, 1.0]


@isa
@many
@pytest.mark.parametrize("kind", list(TYPES))
def test_a_token_of_zeros_gives_zeros(isa, many, kind):
    x = numbers(19, 64, 0)
    x[[0, 7, 18]] = 0
    weights = make_weights(kind, 33, 64, 1)
    with using(isa):
        check(weights, x, many)
        assert not multiply(weights, x, many)[[0, 7, 18]].any()


@isa
@many
@pytest.mark.parametrize("kind", list(TYPES))
def test_one_huge_number_drowns_only_its_own_token(isa, many, kind):
    x = numbers(17, 64, 0)
    x[4, 13] = 1e30
    with using(isa):
        check(make_weights(kind, 21, 64, 2), x, many)


@isa
@many
def test_a_row_of_zero_weights(isa, many):
    for kind in TYPES:
        weights = make_weights(kind, 5, 32, 0)
        if weights.scale is None:
            weights.stored[3] = 0
        else:
            weights.scale[3] = 0
        with using(isa):
            assert not multiply(weights, numbers(3, 32, 1), many)[:, 3].any()


def test_an_unknown_instruction_set_is_refused_and_the_old_one_stays():
    before = library.instruction_set
    with pytest.raises(
        RuntimeError, match=f'"sse9" .* is not there; this processor has {", ".join(INSTRUCTION_SETS)}$'
    ):
        library.instruction_set = "sse9"
    assert library.instruction_set == before
    assert set(INSTRUCTION_SETS) <= set(ALL_SETS)
