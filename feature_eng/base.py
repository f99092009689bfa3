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
        manifest: Their manifest.
        vocabulary: Their vocabulary.
    """

    manifest: Manifest
    vocabulary: Vocabulary

    def field(self, name: str) -> FieldSpec | None:
        """A field as it was fitted; None if there was none of the name."""
        return next((field for field in self.manifest.fields if field.name == name), None)


def read_base(spark: SparkSession, directory: str, fields: Sequence[FieldSpec]) -> Base:
    """Read earlier features.

    Args:
        spark: The session.
        directory: Theirs.
        fields: The fields as they are configured now.

    Raises:
        ConfigError: A field is configured otherwise than then: its ids would change their meaning.
        DataError: They are missing or damaged.
    """
    manifest = read_manifest(directory)
    base = Base(manifest, read_vocabulary(spark, directory, manifest.vocabulary_fingerprint))
    for field in fields:
        before = base.field(field.name)
        if before is None:
            continue
        for key in CONFIGURED:
            now, then = getattr(field, key), getattr(before, key)
            if now != then and key != "length":  # lists may be cut elsewhere
                raise ConfigError(
                    f"field '{field.name}': {key} is {now!r}, but {then!r} in the base "
                    f"'{directory}', whose ids would mean something else; give the field another "
                    f"name, or build without --base"
                )
    return base
