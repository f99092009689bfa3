"""Spark: from the raw table to one-hot indexed Parquet; pure DataFrame -> DataFrame functions."""

import conf  # noqa: F401 (tells numba where compiled loops are kept)
