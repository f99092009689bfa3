"""The Spark session of a job."""

import os

from pyspark.sql import SparkSession

from conf.schema import SparkConfig

Properties = dict[str, bool | float | int | str | None]

# What the encoding relies on, whatever the site's defaults.
_FIXED: Properties = {
    "spark.sql.session.timeZone": "UTC",
    # mapInArrow: rows per Arrow batch; larger ones spill out of the cache.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "16384",
}


def spark_session(config: SparkConfig) -> SparkSession:
    """The session of spark-submit with its settings, or one of our own."""
    builder = SparkSession.builder.config(map=_FIXED)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # set by spark-submit
        own: Properties = {
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "ERROR",
            **config.conf,
        }
        builder = builder.master(config.master).config(map=own)
    return builder.getOrCreate()
