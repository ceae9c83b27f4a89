"""Which examples share a row: best fit on the lengths of sources and targets at once."""

from __future__ import annotations

import numpy as np


def pack(lengths: np.ndarray, room: tuple[int, int]) -> list[list[int]]:
    """Rows of places, from lengths (examples, 2) of sources and targets and the room (2,) of a row.

    The largest examples are placed first, each into the row that then has least room left, both sides counted as shares
    of the whole. Raises ValueError for an example that no row can hold.
    """
    if (lengths > room).any():
        source, target = lengths[(lengths > room).any(axis=1)][0]
        raise ValueError(f"an example of {source} + {target} tokens does not fit into a row of {room[0]} + {room[1]}")
    whole = np.asarray(room)
    rows: list[list[int]] = []
    free = np.tile(whole, (len(lengths), 1))
    for place in np.argsort(-(lengths / whole).max(axis=1), kind="stable"):
        left = free[: len(rows)] - lengths[place]
        fitting = np.flatnonzero((left >= 0).all(axis=1))
        if len(fitting):
            row = int(fitting[(left[fitting] / whole).sum(axis=1).argmin()])
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(int(place))
        free[row] -= lengths[place]
    return rows
