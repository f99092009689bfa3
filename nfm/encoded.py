"""What an encoded file must hold, and which of some files it is that cannot be read."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import DataError, PipelineError, RunError
from conf.manifest import PADDING, FieldSpec
from nfm.batch import Columns, IntArray

REBUILD = "build the features again (jobs.build_features --overwrite)"


def columns_of(
    table: pa.Table, fields: Mapping[str, FieldSpec], loss_columns: Sequence[str], path: str
) -> Columns:
    """The columns of an encoded row group, without a copy where there need be none.

    Args:
        table: The row group.
        fields: The manifest's fields, by name.
        loss_columns: The label, and the weight if it is wanted.
        path: Its file, for messages.

    Returns:
        Per field and loss column: int32 [n], float32 [n] (numeric, label, weight) or int32
        [n, length] (multi-valued).

    Raises:
        DataError: A column is missing, of another type, or holds nulls, ids that the field does not
            have, or lists of another length.
    """
    columns = {name: _column(table, name, pa.float32(), path).to_numpy() for name in loss_columns}
    for name, field in fields.items():
        if field.kind == "numeric":
            columns[name] = _column(table, name, pa.float32(), path).to_numpy()
        elif field.kind == "multi_valued":
            column = _column(table, name, pa.list_(pa.int32()), path)
            lists = column.flatten().to_numpy()
            if (np.diff(column.offsets.to_numpy()) != field.length).any():
                raise DataError(
                    f"'{path}', column '{name}': lists of {field.length} were expected; {REBUILD}"
                )
            columns[name] = _checked(lists, PADDING, field, path).reshape(-1, field.length)
        else:
            column = _column(table, name, pa.int32(), path)
            columns[name] = _checked(column.to_numpy(), 0, field, path)
    return columns


def explain(
    error: Exception, paths: Sequence[str], open_file: Callable[[str], pa.NativeFile]
) -> PipelineError:
    """Say which of some files could not be read, and why, by trying them one by one.

    Args:
        error: What reading them together came to.
        paths: The files.
        open_file: Opens one.
    """
    for path in paths:
        try:
            file = open_file(path)
        except FileNotFoundError:
            return DataError(f"'{path}', which the manifest lists, is not there; {REBUILD}")
        except Exception as found:  # stores have errors of their own
            return RunError(f"'{path}' could not be opened ({found!r}); is its store up?")
        try:
            pq.ParquetFile(file).read()
        except (pa.ArrowException, OSError) as found:
            if getattr(found, "errno", None):  # the system's; pyarrow's own have no number
                return RunError(f"'{path}' could not be read ({found}); is its store up?")
            return DataError(f"'{path}' is damaged ({found}); {REBUILD}")
    return RunError(
        f"reading '{paths[0]}' and what follows it failed ({error!r}); is it being rebuilt?"
    )


def _column(table: pa.Table, name: str, expected: pa.DataType, path: str) -> pa.Array:
    if name not in table.column_names:
        raise DataError(f"'{path}' has no column '{name}'; {REBUILD}")
    chunks = table.column(name)
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    if column.type != expected or column.null_count:
        found = f"{column.type} with {column.null_count} nulls"
        raise DataError(
            f"'{path}', column '{name}': {expected} without nulls was expected, found {found}; "
            f"{REBUILD}"
        )
    return column


def _checked(ids: IntArray, lowest: int, field: FieldSpec, path: str) -> IntArray:
    """Local ids that lie in their field: a foreign one would point anywhere in the table."""
    if len(ids) and (ids.min() < lowest or ids.max() >= field.cardinality):
        raise DataError(
            f"'{path}', column '{field.name}': ids from {lowest} to {field.cardinality - 1} were "
            f"expected, found {ids.min()} to {ids.max()}; {REBUILD}"
        )
    return ids
