"""Weighted draws of distinct items, in numpy: what is drawn for a row depends on it alone."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def draw_items(
    ends: Integers,
    seen: Integers,
    num_seen: Integers,
    hashes: Integers,
    num_rows: Integers,
    per_positive: int,
) -> Integers:
    """Draw distinct items for each row, in proportion to their weights, but none its user has seen.

    Items lie on a line, each as long as its weight. For a user the pieces of the items seen are cut
    out and the rest pushed together; a draw is a point on what is left, and the item
    it lies on is cut out for the row's next draws. So nothing is ever drawn again.

    Args:
        ends: [I] sums of the weights up to and with each item; one of weight 0 is never drawn.
        seen: Items that each user has seen, ascending, user after user.
        num_seen: [U] how many each has.
        hashes: [R] a random 64-bit number of each row, user after user.
        num_rows: [U] how many each user has.
        per_positive: Draws for a row.

    Returns:
        [R, per_positive] items. A probability is off by less than (sum of weights) / 2**64 of
        itself.
    """
    weights, total = np.diff(ends, prepend=0), ends[-1]
    # The sums of the weights of all users' seen items, and where each user's begin among them.
    cut = np.concatenate([[0], np.cumsum(weights[seen])])
    begin = np.concatenate([[0], np.cumsum(num_seen)])
    of_seen, of_row = (np.repeat(np.arange(len(n)), n) for n in (num_seen, num_rows))
    # Where each cut is on its user's pushed line; the users' lines follow one another.
    at = ends[seen] - weights[seen] - (cut[:-1] - cut[begin[of_seen]]) + of_seen * (total + 1)
    room = total - (cut[begin[1:]] - cut[begin[:-1]])[of_row]
    drawn = np.empty((len(hashes), per_positive), np.int64)
    starts = np.empty((len(hashes), 0), np.int64)
    for number in range(per_positive):
        point = (split_mix(hashes, number) % room.astype(np.uint64)).astype(np.int64)
        order = np.argsort(starts, axis=1)
        for start, item in zip(
            np.take_along_axis(starts, order, 1).T,
            np.take_along_axis(drawn[:, :number], order, 1).T,
            strict=True,
        ):
            point = np.where(point >= start, point + weights[item], point)
        num_cut = np.searchsorted(at, point + of_row * (total + 1), side="right")
        whole = point + cut[num_cut] - cut[begin[of_row]]
        item = drawn[:, number] = np.searchsorted(ends, whole, side="right")
        starts = np.column_stack([starts, point - (whole - ends[item] + weights[item])])
        room -= weights[item]
    return drawn


def split_mix(hashes: Integers, number: int) -> NDArray[np.uint64]:
    """Output ``number`` (from 0) of the SplitMix64 generators with these seeds (Steele 2014)."""
    z = hashes.astype(np.uint64) + np.uint64((number + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
