"""Products for training against plain float64 arithmetic on the numbers as they are rounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quintet.engine import gemm_into
from tests.engine.native import INSTRUCTION_SETS, using

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}  # half the distance of neighbours, relative
GUARD = 12345.0

isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


def matrix(rows: int, columns: int, dtype: torch.dtype, transposed: bool, seed: int) -> Tensor:
    """Of numbers of different sizes, within a larger matrix, which may lie transposed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (columns + 1, rows + 3) if transposed else (rows + 1, columns + 3)
    whole = (torch.randn(shape, generator=generator) * 10 ** torch.randn(shape, generator=generator)).to(dtype)
    return whole[:columns, :rows].t() if transposed else whole[:rows, :columns]


def check(left: Tensor, right: Tensor, dtype: torch.dtype, adds: bool = False, turned: bool = False) -> None:
    """The product lies within the rounding errors of float32 sums around the exact one, and nothing else is written:
    row by row or, `turned`, column by column."""
    rows, columns = left.shape[0], right.shape[1]
    whole = torch.full((columns + 2, rows + 1) if turned else (rows + 1, columns + 2), GUARD, dtype=dtype)
    whole = whole.t() if turned else whole
    result = whole[:-1, :-2]
    result.fill_(3.0)
    gemm_into(result, left, right, adds=adds)
    a, b = (factor.bfloat16().double().numpy() for factor in (left, right))
    exact = a @ b + (3.0 if adds else 0.0)
    slack = 2 * (left.shape[1] + 2) * UNIT[torch.float32] * (np.abs(a) @ np.abs(b) + 3.0)
    if dtype == torch.bfloat16:
        slack += UNIT[dtype] * np.abs(exact)
    assert (np.abs(result.double().numpy() - exact) <= slack).all()
    assert (whole[-1] == GUARD).all()
    assert (whole[:, -2:] == GUARD).all()


@isa
@settings(max_examples=40)
@given(
    rows=st.integers(1, 150),
    inner=st.integers(0, 150),
    columns=st.integers(1, 150),
    left=st.tuples(dtypes, st.booleans()),
    right=st.tuples(dtypes, st.booleans()),
    result=st.tuples(dtypes, st.booleans()),
    seed=st.integers(0, 9999),
)
def test_products_of_any_shape(isa, rows, inner, columns, left, right, result, seed):
    dtype, turned = result
    with using(isa):
        check(matrix(rows, inner, *left, seed), matrix(inner, columns, *right, seed + 1), dtype, turned=turned)


@isa
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(300, 64, 1100), (40, 1200, 96), (1, 513, 1), (290, 1025, 530)])
def test_more_than_is_laid_out_at_once(isa, threads, rows, inner, columns):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with using(isa):
            check(
                matrix(rows, inner, torch.bfloat16, True, 0),
                matrix(inner, columns, torch.float32, True, 1),
                torch.float32,
            )
    finally:
        torch.set_num_threads(before)


@isa
@pytest.mark.parametrize("turned", [False, True])
def test_a_product_added_to_what_is_there(isa, turned):
    left, right = matrix(70, 600, torch.float32, False, 0), matrix(600, 45, torch.bfloat16, False, 1)
    with using(isa):
        check(left, right, torch.float32, adds=True, turned=turned)


@isa
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(3, 9, 480_000), (40, 1200, 170), (2, 130_000, 35)])
def test_the_left_factor_is_laid_out_as_a_whole_where_few_rows_meet_many_columns(isa, rows, inner, columns, turned):
    left, right = matrix(rows, inner, torch.bfloat16, False, 0), matrix(inner, columns, torch.float32, True, 1)
    with using(isa):
        check(left, right, torch.float32, turned=turned)


@isa
def test_no_rows_no_columns_and_numbers_apart(isa):
    with using(isa):
        check(torch.ones(0, 4), torch.ones(4, 3), torch.float32)
        check(torch.ones(3, 4), torch.ones(4, 0), torch.float32)
        expanded = torch.tensor(2.0, dtype=torch.bfloat16).expand(5, 33)
        check(expanded, torch.randn(33, 99)[:, ::3], torch.bfloat16)


@isa
def test_numbers_that_are_none_reach_only_their_row_and_column(isa):
    left, right = torch.ones(40, 40), torch.ones(40, 40)
    left[3, 5], right[7, 9] = torch.nan, torch.inf
    result = torch.empty(40, 40)
    with using(isa):
        gemm_into(result, left, right)
    assert result[3].isnan().all()
    assert result[:, 9].isfinite().sum() == 0
    assert (result[torch.arange(40) != 3][:, torch.arange(40) != 9] == 40).all()


@pytest.mark.parametrize("threads", [1, 4])
def test_callers_from_several_threads(threads):
    """Each has room of its own."""
    lefts = [matrix(90 + number, 70, torch.float32, False, number) for number in range(4)]
    factors = [(left, matrix(70, 610 - len(left), torch.bfloat16, True, len(left))) for left in lefts]

    def multiply(pair: tuple[Tensor, Tensor]) -> Tensor:
        torch.set_num_threads(threads)
        result = torch.empty(pair[0].shape[0], pair[1].shape[1])
        gemm_into(result, *pair)
        return result

    before = torch.get_num_threads()
    try:
        alone = [multiply(pair) for pair in factors]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(20):
                assert all(map(torch.equal, pool.map(multiply, factors), alone))
    finally:
        torch.set_num_threads(before)


class Other(torch.Tensor):
    """A tensor that may have no memory of its own, as far as anyone knows."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"right": torch.ones(4, 5)}, r"\(2, 3\) times \(4, 5\) does not make \(2, 5\)"),
        ({"result": torch.ones(5, 2)}, r"\(2, 3\) times \(3, 5\) does not make \(5, 2\)"),
        ({"left": torch.ones(2, 3, dtype=torch.float16)}, "float32 and bfloat16 on the CPU, got torch.float16"),
        ({"result": torch.ones(2, 5, dtype=torch.float64)}, "float32 and bfloat16 on the CPU, got torch.float64"),
        ({"left": torch.ones(2, 3, device="meta")}, "float32 and bfloat16 on the CPU"),
        ({"left": torch.ones(2, 3).as_subclass(Other)}, "float32 and bfloat16 on the CPU.*Other"),
        ({"result": torch.ones(4, 10)[::2, ::2]}, r"must lie side by side, got strides \(20, 2\)"),
        ({"result": torch.ones(2, 5, dtype=torch.bfloat16), "adds": True}, "added to float32 only, got torch.bfloat16"),
    ],
)
def test_refusals(change, message):
    arguments = {"result": torch.ones(2, 5), "left": torch.ones(2, 3), "right": torch.ones(3, 5), **change}
    with pytest.raises(ValueError, match=message):
        gemm_into(**arguments)
