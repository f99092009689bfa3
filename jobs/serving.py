"""A bundle where the Python workers of a scoring find it: its model, and its known values."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import SparkSession

from conf.manifest import FieldSpec
from conf.scoring import Calibration
from feature_eng.scoring import Encoder, write_indices
from feature_eng.shipped import Shipped, local_directory, ship
from nfm.predict import Scorer, load_scorer


@dataclass(frozen=True)
class Served:
    """What a worker needs of a bundle.

    Attributes:
        bundle: The bundle.
        encoder: Encodes rows as it knows them.
    """

    bundle: Shipped
    encoder: Encoder

    def scorer(self, calibration: Calibration, explain: int) -> Scorer:
        """The model, loaded once by each worker."""
        return load_scorer(self.bundle.path(), calibration, explain)


@contextmanager
def served(spark: SparkSession, bundle: str, fields: list[FieldSpec]) -> Iterator[Served]:
    """Bring a bundle to all machines, for the time of a scoring."""
    with local_directory(bundle) as local, tempfile.TemporaryDirectory() as indices:
        write_indices(local, fields, indices)
        yield Served(ship(spark, local), Encoder(fields, ship(spark, indices)))
