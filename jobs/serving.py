"""A bundle where the Python workers of a scoring find it: its model, and its known values."""

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import SparkSession

from conf.manifest import FieldSpec, Manifest
from conf.scoring import Calibration
from feature_eng.candidates import PairEncoder, save_items
from feature_eng.scoring import Encoder, write_indices
from feature_eng.shipped import Shipped, lasting_directory, local_copy, ship
from feature_eng.vocabulary import read_vocabulary
from nfm.predict import Scorer, load_scorer

# By application and bundle, which never changes: days of a backfill share one.
_SERVED: dict[tuple[str, str], "Served"] = {}
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Served:
    """What workers need of a bundle, on all machines.

    Attributes:
        bundle: The bundle.
        values: Its known values.
    """

    bundle: Shipped
    values: Shipped

    def scorer(self, calibration: Calibration, explain: int) -> Callable[[], Scorer]:
        """What loads the model in a worker, once."""
        return functools.partial(_load, self.bundle, calibration, explain)

    def encoder(self, fields: Sequence[FieldSpec]) -> Encoder:
        """Encodes rows."""
        return Encoder(fields, self.values)

    def pair_encoder(
        self,
        spark: SparkSession,
        items: pa.Table,
        user_fields: Sequence[FieldSpec],
        item_fields: Sequence[FieldSpec],
    ) -> PairEncoder:
        """Encodes pairs of users and these items, by the fields of each."""
        directory = lasting_directory()
        save_items(items, directory)
        users, of_items = self.encoder(user_fields), self.encoder(item_fields)
        return PairEncoder(users, of_items, ship(spark, directory))


def served(spark: SparkSession, path: str, manifest: Manifest) -> Served:
    """Bring a bundle to all machines.

    Args:
        spark: The session.
        path: Where it is.
        manifest: Of its features.

    Raises:
        DataError: Its vocabulary is not the one that it was trained with.
    """
    key = str(spark.sparkContext.applicationId), path
    with _ONE_AT_A_TIME:
        if key not in _SERVED:
            vocabulary = read_vocabulary(spark, path, manifest.vocabulary_fingerprint)
            values = lasting_directory()
            write_indices(vocabulary, manifest.fields, values)
            _SERVED[key] = Served(ship(spark, local_copy(path)), ship(spark, values))
        return _SERVED[key]


def _load(bundle: Shipped, calibration: Calibration, explain: int) -> Scorer:
    return load_scorer(bundle.path(), calibration, explain)
