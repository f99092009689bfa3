"""A bundle where the Python workers of a scoring find it: its model, and its known values."""

import functools
import hashlib
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from conf.manifest import FieldSpec, Manifest
from conf.scoring import Calibration
from feature_eng.candidates import ITEMS, PairEncoder, save_items
from feature_eng.scoring import Encoder, write_indices
from feature_eng.shipped import Shipped, lasting_directory, local_copy, ship
from feature_eng.vocabulary import read_vocabulary
from nfm.predict import Scorer, load_scorer

# By application and bundle, which never changes: days of a backfill share one.
_SERVED: dict[tuple[str, str], "Served"] = {}
# By application and content, which mostly stays the same over the days of a backfill.
_ITEMS: dict[tuple[str, str], Shipped] = {}
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
        users, of_items = self.encoder(user_fields), self.encoder(item_fields)
        return PairEncoder(users, of_items, _shipped_items(spark, items))


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


def _shipped_items(spark: SparkSession, items: pa.Table) -> Shipped:
    directory = lasting_directory()
    save_items(items, directory)
    with Path(directory, ITEMS).open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    key = str(spark.sparkContext.applicationId), content
    with _ONE_AT_A_TIME:
        if key in _ITEMS:
            shutil.rmtree(directory)
        else:
            _ITEMS[key] = ship(spark, directory)
        return _ITEMS[key]


def _load(bundle: Shipped, calibration: Calibration, explain: int) -> Scorer:
    return load_scorer(bundle.path(), calibration, explain)
