"""Cutting token ids to a length, for tokenizers that do it in Python."""

from __future__ import annotations

from quintet.tokenizers.options import Side, TruncationStrategy


def check_room(max_length: int, special_tokens: int) -> None:
    """ValueError if the special tokens alone exceed `max_length` (the reference then returns too long a sequence)."""
    if max_length < special_tokens:
        raise ValueError(
            f"max_length={max_length} leaves no room for the {special_tokens} special tokens that are added: "
            f"it must be at least {special_tokens}, or add_special_tokens must be False."
        )


def truncate(
    ids: list[int],
    pair_ids: list[int] | None,
    excess: int,
    strategy: TruncationStrategy,
    stride: int,
    side: Side,
) -> tuple[list[int], list[int] | None, list[int]]:
    """Remove `excess` tokens: (ids, pair_ids, overflowing tokens).

    The overflowing tokens are those removed and `stride` neighbours that were kept; none are returned for a pair cut by
    "longest_first". Raises ValueError if the text that is to be cut is missing or not longer than `excess`.
    """
    if excess <= 0 or strategy is TruncationStrategy.DO_NOT_TRUNCATE:
        return ids, pair_ids, []
    if strategy is TruncationStrategy.LONGEST_FIRST and pair_ids is not None:
        from_first, from_second = _share(len(ids), len(pair_ids), excess)
        return _keep(ids, from_first, side), _keep(pair_ids, from_second, side), []
    if strategy is TruncationStrategy.ONLY_SECOND:
        _check_long_enough(pair_ids, excess, strategy)
        assert pair_ids is not None
        return ids, _keep(pair_ids, excess, side), _overflow(pair_ids, excess + stride, side)
    if strategy is TruncationStrategy.ONLY_FIRST:
        _check_long_enough(ids, excess, strategy)
    return _keep(ids, excess, side), pair_ids, _overflow(ids, excess + stride, side)


def _share(first: int, second: int, excess: int) -> tuple[int, int]:
    """How much to take from each of two lengths: level them, then halve the rest; an odd one goes to the second."""
    levelling = min(abs(first - second), excess)
    half = (excess - levelling) // 2
    other_half = excess - levelling - half
    return (levelling + half, other_half) if first > second else (half, levelling + other_half)


def _keep(ids: list[int], removed: int, side: Side) -> list[int]:
    return ids[removed:] if side is Side.LEFT else ids[: max(len(ids) - removed, 0)]


def _overflow(ids: list[int], window: int, side: Side) -> list[int]:
    window = min(window, len(ids))
    return ids[:window] if side is Side.LEFT else ids[len(ids) - window :]


def _check_long_enough(ids: list[int] | None, excess: int, strategy: TruncationStrategy) -> None:
    if ids is None:
        raise ValueError(f"truncation={strategy.value!r} needs a second text to cut, and there is none.")
    if len(ids) <= excess:
        raise ValueError(
            f"truncation={strategy.value!r} would have to remove {excess} tokens from a text of {len(ids)}: "
            "raise max_length, or choose 'longest_first'."
        )
