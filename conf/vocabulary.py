"""The values of a field and their ids, out of the vocabulary of features or of a bundle."""

import pyarrow as pa
import pyarrow.dataset as ds

from conf import storage
from conf.manifest import VOCABULARY


def value_ids(directory: str, field: str, *others: str) -> pa.Table:
    """The known values of a field and their local ids: columns ``value``, ``id``, and others."""
    fs, plain = storage.filesystem(f"{directory}/{VOCABULARY}")
    files = ds.dataset(fs.glob(f"{plain}/*.parquet"), filesystem=fs)
    return files.to_table(columns=["value", "id", *others], filter=ds.field("field") == field)
