"""One Spark session for all tests of a process: starting a JVM costs seconds."""

import os
from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from conf.schema import SparkConfig
from jobs.session import spark_session
from tests.data import JVM_OPTIONS

# pyspark.testing imports pandas-on-Spark, which warns without it.
os.environ.setdefault("PYARROW_IGNORE_TIMEZONE", "1")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    conf = {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "1g",
        "spark.driver.extraJavaOptions": JVM_OPTIONS,
        "spark.sql.shuffle.partitions": "2",
        "spark.default.parallelism": "2",
    }
    session = spark_session(SparkConfig(master="local[2]", conf=conf))
    yield session
    session.stop()
