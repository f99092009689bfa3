"""The data contract, held against what the one pass over the rows and the written files say."""

import logging
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.checks import ChecksConfig, ColumnCheck, DriftCheck
from conf.errors import DataError
from conf.manifest import CheckResult, FieldSpec, Manifest, Outcome
from conf.schema import Config
from feature_eng.base import Base
from feature_eng.histogram import stability_index
from feature_eng.profile import Profile
from feature_eng.raw import named_column
from feature_eng.write import WrittenSplit

CHECKED = "_checked"

logger = logging.getLogger(__name__)


def checked_columns(raw: DataFrame, checks: Sequence[ColumnCheck], is_raw: Column) -> list[Column]:
    """The raw columns that are checked, as one struct, null in rows that are not from the table.

    Raises:
        DataError: A column is missing, or has no numbers to be in a range.
    """
    if not checks:
        return []
    columns = []
    for number, check in enumerate(checks):
        columns.append(named_column(raw, check.column, "checks").alias(f"c{number}"))
        found, has_range = raw.schema[check.column].dataType, (check.min, check.max) != (None, None)
        if has_range and not isinstance(found, T.NumericType | T.StringType):
            raise DataError(
                f"checks: '{check.column}' is {found.simpleString()}, but min and max are those of "
                f"a number; leave them out, or check a column of numbers"
            )
    return [F.when(is_raw, F.struct(*columns)).alias(CHECKED)]


def statistics(checks: Sequence[ColumnCheck]) -> dict[str, Column]:
    """The aggregates that the checks of columns need: rows, and of these the null and the wrong."""
    wanted = {"rows": F.count(F.col(CHECKED))} if checks else {}
    for number, check in enumerate(checks):
        value = F.col(CHECKED)[f"c{number}"]
        present = F.col(CHECKED).isNotNull() & value.isNotNull()
        wanted[f"null:{number}"] = F.count_if(F.col(CHECKED).isNotNull() & value.isNull())
        if check.min is not None or check.max is not None:
            x = value.cast("string").try_cast("double")  # of a text as well
            is_wrong = x.isNull() | F.isnan(x)
            if check.min is not None:
                is_wrong |= x < check.min
            if check.max is not None:
                is_wrong |= x > check.max
            wanted[f"range:{number}"] = F.count_if(present & is_wrong)
        if check.allowed is not None:
            is_wrong = ~value.cast("string").isin(check.allowed)
            wanted[f"allowed:{number}"] = F.count_if(present & is_wrong)
    return wanted


def check_columns(
    checks: Sequence[ColumnCheck], types: Mapping[str, str], found: Mapping[str, int]
) -> list[CheckResult]:
    """Hold raw columns against their checks.

    Args:
        checks: What is expected.
        types: Types of the raw columns, as Spark names them.
        found: Values of ``statistics``.
    """
    results = []
    for number, check in enumerate(checks):
        rows, column = found["rows"], check.column
        if check.type is not None:
            results.append(
                _result("type", column, check.type, types[column], types[column] == check.type)
            )
        if check.max_null_share is not None:
            share = found[f"null:{number}"] / max(1, rows)
            results.append(_at_most("null share", column, check.max_null_share, share))
        if check.min is not None or check.max is not None:
            low = "" if check.min is None else f"{check.min:g} "
            high = "" if check.max is None else f" {check.max:g}"
            wrong = found[f"range:{number}"]
            results.append(_none_of("range", column, f"{low}to{high}", wrong, rows))
        if check.allowed is not None:
            wrong = found[f"allowed:{number}"]
            allowed = f"{', '.join(check.allowed):.60}"
            results.append(_none_of("allowed values", column, allowed, wrong, rows))
    return results


def check_build(
    config: Config,
    raw_rows: int,
    profile: Profile,
    fields: Sequence[FieldSpec],
    previous: Manifest | None,
) -> list[CheckResult]:
    """Hold the numbers of rows, the label and the unknown values against the contract.

    Args:
        config: The run.
        raw_rows: Rows of the raw table.
        profile: What the pass over the rows found.
        fields: The fields with their rates.
        previous: The base, else the version that is replaced; None if there is none.
    """
    checks, results = config.checks, []
    if checks.min_rows is not None:
        holds = raw_rows >= checks.min_rows
        results.append(_result("rows", "", f"at least {checks.min_rows}", str(raw_rows), holds))
    if checks.max_row_change is not None and previous is not None:
        before = previous.source.rows
        change = abs(raw_rows - before) / max(1, before)
        results.append(_at_most(f"change from {before} rows", "", checks.max_row_change, change))
    if checks.label_rate is not None:
        low, high = checks.label_rate
        rate = sum(profile.positives.values()) / max(1, raw_rows)
        expected = f"{low:g} to {high:g}"
        results.append(
            _result("label rate", config.label.column, expected, f"{rate:.4f}", low <= rate <= high)
        )
    for field in fields:
        if (limit := checks.max_unknown_share.get(field.name)) is not None:
            results.append(_at_most("unknown share", field.name, limit, field.oov_rate["valid"]))
    return results


def check_drift(
    checks: ChecksConfig, fields: Sequence[FieldSpec], trained: WrittenSplit, base: Base
) -> list[CheckResult]:
    """Compare each field's ids in the training rows with those of the base's.

    The index is over the ids that the base knows and the missing ones. What the base did not know
    counts as unknown, also where it is known from now on, and is judged by its share.
    """
    results = []
    for field, cells in zip(fields, trained.cells_then, strict=True):
        before = base.field(field.name)
        if before is None or not before.histogram:
            continue
        index = stability_index(before.histogram, cells)
        unknown = int(cells[1]) / max(1, int(cells[1:].sum()))
        rise = unknown - before.oov_rate["train"]
        results += [_drift(checks.drift, "drift", field.name, index)]
        results += [_drift(checks.drift, "rise of unknown share", field.name, rise)]
    return results


def settle(results: Sequence[CheckResult], on_breach: str) -> list[CheckResult]:
    """Tell of every breach; raise if they are to end the build.

    Raises:
        DataError: A check failed, and breaches are not only told.
    """
    failed = [result for result in results if result.outcome == "fail"]
    if failed and on_breach == "fail":
        raise DataError(
            "\n".join(
                [
                    f"the data broke the contract in {len(failed)} of {len(results)} checks; "
                    f"nothing was published. Mend the data, or what checks: expects:",
                    *(f"  {result.line()}" for result in failed),
                ]
            )
        )
    for result in results:
        if result.outcome != "pass":
            logger.warning("check: %s", result.line())
    return [
        result.model_copy(update={"outcome": "warn"}) if result.outcome == "fail" else result
        for result in results
    ]


def _drift(limits: DriftCheck, check: str, of: str, found: float) -> CheckResult:
    outcome: Outcome = "pass"
    if found >= limits.warn:
        outcome = "fail" if found >= limits.fail else "warn"
    expected = f"below {limits.warn:g}, fails at {limits.fail:g}"
    return CheckResult(check=check, of=of, expected=expected, found=f"{found:.4f}", outcome=outcome)


def _result(check: str, of: str, expected: str, found: str, holds: bool) -> CheckResult:
    outcome: Outcome = "pass" if holds else "fail"
    return CheckResult(check=check, of=of, expected=expected, found=found, outcome=outcome)


def _at_most(check: str, of: str, limit: float, found: float) -> CheckResult:
    return _result(check, of, f"at most {limit:g}", f"{found:.4f}", found <= limit)


def _none_of(check: str, of: str, expected: str, wrong: int, rows: int) -> CheckResult:
    return _result(check, of, expected, f"others in {wrong} of {rows} rows", wrong == 0)
