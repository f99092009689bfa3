"""The rows with the greatest scores, of rows that come in parts."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.scoring import SCORE

# The model's output: of rows with the same score, as calibration gives to many, it knows the best.
RANK = "_model_output"
_HELD_ROWS = 1 << 18


class DueRows:
    """Counts the rows that are to come out of ``best_rows``, by those that go in.

    Args:
        top_k: Rows for each value.
        by: The column.
    """

    def __init__(self, top_k: int, by: str) -> None:
        self._top_k, self._by = top_k, by
        self._counts: list[pa.Table] = []
        self._held = 0

    def of(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables themselves, counted as they pass."""
        for table in tables:
            self._counts.append(pa.table({"by": table[self._by], "rows": pa.repeat(1, len(table))}))
            self._held += len(table)
            if self._held >= _HELD_ROWS:
                self._counts, self._held = [self._added_up()], 0
            yield table

    def total(self) -> int:
        """So many are due."""
        if not self._counts:
            return 0
        return int(pc.sum(pc.min_element_wise(self._added_up()["rows"], self._top_k)).as_py())

    def _added_up(self) -> pa.Table:
        rows = pa.concat_tables(self._counts).group_by("by", use_threads=False)
        found = rows.aggregate([("rows", "sum")])
        return pa.table({"by": found["by"], "rows": found["rows_sum"]})


def best_rows(tables: Iterator[pa.Table], top_k: int, by: str) -> Iterator[pa.Table]:
    """The rows that the model ranks highest for each value of a column; of equal ones the first.

    Args:
        tables: Scored rows with ``RANK``, of which some are held at a time.
        top_k: Rows for each value.
        by: The column, which comes first in the tables or among the keys.

    Yields:
        One table, ordered by that column, then by rank, descending, then by the other columns
        before the score that have an order.
    """
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += len(table)
        if rows >= _HELD_ROWS:
            held, rows = [_best(pa.concat_tables(held), top_k, by)], 0
    if held:
        yield _best(pa.concat_tables(held), top_k, by)


def _best(rows: pa.Table, top_k: int, by: str) -> pa.Table:
    others = [
        field.name
        for field in list(rows.schema)[: rows.column_names.index(SCORE)]
        if field.name != by and not pa.types.is_nested(field.type)
    ]
    order = [(by, "ascending"), (RANK, "descending"), *((name, "ascending") for name in others)]
    rows = rows.take(pc.sort_indices(rows, sort_keys=order))
    codes = rows[by].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    rank = np.arange(len(codes)) - np.repeat(begins, np.diff([*begins, len(codes)]))
    return rows.filter(pa.array(rank < top_k))
