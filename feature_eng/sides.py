"""Whose a column of a pair is: its user's, or its item's.

The users' table may hold whole interactions, with columns of the item of each. Taken from there,
all pairs of a user would be scored with one and the same item.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import ConfigError
from conf.manifest import FieldSpec
from conf.scoring import CandidatesConfig
from feature_eng.raw import has_source


@dataclass(frozen=True)
class Sides:
    """Two tables, each with those of its columns that a pair takes from it.

    Attributes:
        users: Has the users' columns.
        items: Has those of the items.
        undecided: Columns that both tables have, of which nothing says whose counts.
    """

    users: DataFrame
    items: DataFrame
    undecided: list[T.StructField]

    @classmethod
    def of(
        cls, users: DataFrame, items: DataFrame, wanted: CandidatesConfig, ds_column: str
    ) -> "Sides":
        """Part the columns that both tables have.

        Args:
            users: The rows of the day.
            items: A row per item.
            wanted: Says whose they are.
            ds_column: Names the day of the users' rows.
        """
        # As Spark resolves names in expressions. The names of an item stay with the items.
        of_item = _folded([*wanted.item, *_shared(wanted, "item")])
        of_user = _folded([*wanted.user, ds_column, *_shared(wanted, "user")])
        both = _folded(users.columns) & _folded(items.columns)
        undecided = both - of_item - of_user
        named_items = both & _folded(wanted.item)
        return cls(
            _without(users, (both & of_item) - _folded(wanted.user) | undecided),
            _without(items, (both & of_user) - named_items | undecided),
            [column for column in users.schema if column.name.lower() in undecided],
        )

    def columns(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Names of columns, by side; what neither has is sought among the items'.

        Raises:
            ConfigError: Both tables have one, and nothing says whose counts.
        """
        if unclear := [column.name for column in self.undecided if column.name in names]:
            raise _unclear("keys and score.columns", unclear)
        of_users = [name for name in names if name in self.users.columns]
        return of_users, [name for name in names if name not in of_users]

    def fields(self, fields: Sequence[FieldSpec]) -> tuple[list[FieldSpec], list[FieldSpec]]:
        """Fields by side; what neither can give is sought among the items'.

        Raises:
            ConfigError: One is made of columns of both, or of a column that both tables have, and
                nothing says whose counts.
        """
        of_users = [field for field in fields if self._is_users(field)]
        return of_users, [field for field in fields if field not in of_users]

    def _is_users(self, field: FieldSpec) -> bool:
        users = [*self.users.schema]
        names = _folded(self.users.columns)
        items = [column for column in self.items.schema if column.name.lower() not in names]
        everything = [*users, *items, *self.undecided]

        def reads(columns: list[T.StructField]) -> bool:
            return self._reads(field, columns, everything)

        if unclear := [column.name for column in self.undecided if reads([column])]:
            raise _unclear(f"field '{field.name}'", unclear)
        of_users, of_items = reads(users), reads(items)
        if of_users and of_items:
            raise ConfigError(
                f"field '{field.name}': '{field.source}' needs columns of the users and of the "
                f"items, but --candidates cross encodes each by itself, so that crosses of both "
                f"cannot be scored: score pairs as rows, or with a bundle without this field"
            )
        return of_users or (not of_items and has_source(self.users, field))

    def _reads(
        self, field: FieldSpec, columns: list[T.StructField], everything: list[T.StructField]
    ) -> bool:
        """Whether a field is made of any of some columns.

        That an expression resolves without a column does not tell: ``user`` is a function, too.
        It does not resolve where there are two of a column that it reads.
        """
        if not field.is_expr:
            return any(column.name == field.source for column in columns)
        spark = self.users.sparkSession
        try:
            table = spark.createDataFrame([], T.StructType([*everything, *columns]))
            table.select(F.expr(field.source))
        except AnalysisException as error:
            return (error.getCondition() or "").startswith("AMBIGUOUS")
        return False


def _unclear(wanted_by: str, names: Sequence[str]) -> ConfigError:
    told = ", ".join(f"{name}: item" for name in names)
    return ConfigError(
        f"users and items both have {', '.join(names)} (wanted by {wanted_by}), and nothing says "
        f"whose counts: set score.candidates.shared: {{{told}}}, or user for item"
    )


def _shared(wanted: CandidatesConfig, side: str) -> list[str]:
    return [name for name, whose in wanted.shared.items() if whose == side]


def _folded(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def _without(table: DataFrame, names: set[str]) -> DataFrame:
    return table.drop(*(name for name in table.columns if name.lower() in names))
