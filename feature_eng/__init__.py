"""Spark: from the raw table to one-hot indexed Parquet; pure DataFrame -> DataFrame functions."""
