"""A bundle where the Python workers of a scoring find it: its model, and its known values."""

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import SparkSession

from conf.manifest import FieldSpec
from conf.scoring import Calibration
from feature_eng.candidates import PairEncoder, save_items
from feature_eng.scoring import Encoder, write_indices
from feature_eng.shipped import Shipped, local_directory, ship
from nfm.predict import Scorer, load_scorer


@dataclass(frozen=True)
class Served:
    """What workers need of a bundle, on all machines.

    Attributes:
        bundle: The bundle.
        values: Its known values, and the items to pair users with.
    """

    bundle: Shipped
    values: Shipped

    def scorer(self, calibration: Calibration, explain: int) -> Callable[[], Scorer]:
        """What loads the model in a worker, once."""
        return functools.partial(_load, self.bundle, calibration, explain)

    def encoder(self, fields: Sequence[FieldSpec]) -> Encoder:
        """Encodes rows."""
        return Encoder(fields, self.values)

    def pair_encoder(self, users: Sequence[FieldSpec], items: Sequence[FieldSpec]) -> PairEncoder:
        """Encodes pairs of users and items, by the fields of each."""
        return PairEncoder(self.encoder(users), self.encoder(items), self.values)


@contextmanager
def served(
    spark: SparkSession, bundle: str, fields: Sequence[FieldSpec], items: pa.Table | None
) -> Iterator[Served]:
    """Bring a bundle to all machines, for the time of a scoring.

    Args:
        spark: The session.
        bundle: Where it is.
        fields: How it encodes rows.
        items: To pair users with, if they are to be.
    """
    with local_directory(bundle) as local, tempfile.TemporaryDirectory() as values:
        write_indices(local, fields, values)
        if items is not None:
            save_items(items, values)
        yield Served(ship(spark, local), ship(spark, values))


def _load(bundle: Shipped, calibration: Calibration, explain: int) -> Scorer:
    return load_scorer(bundle.path(), calibration, explain)
