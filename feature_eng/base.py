"""Earlier features that a build grows: what they know keeps its ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import SparkSession

from conf.errors import ConfigError
from conf.manifest import CONFIGURED, FieldSpec, Manifest, read_manifest
from feature_eng.vocabulary import Vocabulary, read_vocabulary


@dataclass(frozen=True)
class Base:
    """Earlier features.

    Attributes:
        directory: Theirs, or of a bundle.
        manifest: Their manifest.
        vocabulary: Their vocabulary.
    """

    directory: str
    manifest: Manifest
    vocabulary: Vocabulary

    def field(self, name: str) -> FieldSpec | None:
        """A field as it was fitted; None if there was none of the name."""
        return next((field for field in self.manifest.fields if field.name == name), None)


def read_base(spark: SparkSession, directory: str, fields: Sequence[FieldSpec]) -> Base:
    """Read earlier features.

    Args:
        spark: The session.
        directory: Theirs; or a bundle, which holds what is needed of those it was trained on.
        fields: The fields as they are configured now.

    Raises:
        ConfigError: A field is configured otherwise than then: its ids or its x would change
            their meaning.
        DataError: They are missing or damaged.
    """
    manifest = read_manifest(directory)
    known = {field.name: field for field in manifest.fields}
    for field in fields:
        if before := known.get(field.name):
            _refuse_changes(field, before, directory)
    vocabulary = read_vocabulary(spark, directory, manifest.vocabulary_fingerprint)
    return Base(directory, manifest, vocabulary)


def _refuse_changes(field: FieldSpec, before: FieldSpec, directory: str) -> None:
    compared = [key for key in CONFIGURED if key != "length"]  # lists may be cut elsewhere
    if before.fitting is not None:  # older manifests do not say
        compared.append("fitting")
    for key in compared:
        now, then = getattr(field, key), getattr(before, key)
        if now != then:
            raise ConfigError(
                f"field '{field.name}': {key} is {now!r}, but {then!r} in the base "
                f"'{directory}', whose ids and x would mean something else; put it back, give "
                f"the field another name, or build without --base"
            )
