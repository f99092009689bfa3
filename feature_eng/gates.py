"""What the scores of a day are held to before they are published."""

import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from conf.cells import Cells, from_pairs
from conf.errors import DataError
from conf.manifest import CheckResult, FieldSpec, Outcome
from conf.partition import PartitionManifest
from conf.scoring import GatesConfig, Limits
from feature_eng.histogram import index_of_shares
from feature_eng.scored_files import Found

_BINS = 20
_MANY = 100  # rows of which not all but a few may be alike
_CHANCE = 1e-6  # what is less likely did not happen by chance

logger = logging.getLogger(__name__)


def check_scores(
    gates: GatesConfig,
    fields: Sequence[FieldSpec],
    found: Found,
    reference: Cells,
    before: PartitionManifest | None,
    model_id: str,
    optional: Collection[str] = (),
) -> list[CheckResult]:
    """Compare a day's rows and scores with those of the training, and with an earlier day.

    Args:
        gates: The limits.
        fields: As they were fitted, with the rates of the training.
        found: What the day's rows were like.
        reference: The scores of the validation rows.
        before: An earlier day with scores; None without any.
        model_id: What scored this day.
        optional: Fields whose values may be missing.
    """
    results = [check_rows(gates.min_rows, found.rows)]
    if found.rows == 0:
        return results
    for field in fields:
        if rate := field.missing_rate:
            limits = gates.missing_share
            if field.name in optional:
                limits = Limits(warn=limits.warn)
            counts = found.missing[field.name], found.rows
            results.append(_rise(limits, "missing", field.name, *counts, rate["train"]))
        if field.has_vocabulary:
            counts = found.unknown[field.name], found.values[field.name]
            usual = field.oov_rate["valid"]
            results.append(_rise(gates.unknown_share, "unknown", field.name, *counts, usual))
    if found.no_number:
        results.append(_no_number(found.no_number))
    if not found.cells:
        return results
    index = scores_index(reference, found.cells)
    results.append(_within(gates.reference_drift, "drift from validation", "score", index))
    results.append(_drift_from_day(gates.yesterday_drift, before, model_id, found.cells))
    if found.rows >= _MANY:
        share = max(found.frequent.values()) / found.rows
        results.append(_within(gates.constant_share, "share of one value", "score", share))
    return results


def _drift_from_day(
    limits: Limits, before: PartitionManifest | None, model_id: str, found: Cells
) -> CheckResult:
    if before is None:
        return _nothing("drift from the week before", "score", "scores to compare with", "none")
    index, check = scores_index(from_pairs(before.score_cells), found), f"drift from {before.ds}"
    if before.model_id != model_id:
        # Failing, it would fail every night until that day is a week old: none replaces it.
        limits = Limits(warn=limits.fail if limits.warn is None else limits.warn)
        check += f", when '{before.model_id}' scored,"
    return _within(limits, check, "score", index)


def _rise(limits: Limits, what: str, of: str, count: int, total: int, usual: float) -> CheckResult:
    """Compare a share with the usual one: by how far it is above, and whether it is all."""
    check = f"rise of {what} share"
    if total == 0:
        return _nothing(check, of, "values to look up", "none")
    result = _within(limits, check, of, count / total - usual)
    # Where most are so anyhow, the share cannot rise by much even if nothing is left of the field.
    if limits.fail is None or result.outcome == "fail" or count < total or usual**total > _CHANCE:
        return result
    return CheckResult(
        check=f"{what} share",
        of=of,
        expected=f"not all (usually {usual:.4f})",
        found=f"all {total}",
        outcome="fail",
    )


def _nothing(check: str, of: str, expected: str, found: str) -> CheckResult:
    """A check that could not be made, for the record."""
    return CheckResult(check=check, of=of, expected=expected, found=found, outcome="pass")


def _no_number(rows: int) -> CheckResult:
    return CheckResult(
        check="scores are numbers",
        of="score",
        expected="a finite output of the model for each row",
        found=f"{rows} rows without; clip the numeric fields, or train again",
        outcome="fail",
    )


def check_rows(least: int, found: int) -> CheckResult:
    """Whether there are enough rows to score."""
    outcome: Outcome = "pass" if found >= least else "fail"
    return CheckResult(
        check="rows", of="", expected=f"at least {least}", found=f"{found}", outcome=outcome
    )


def check_written(
    found: Found, written: int, top_k: int | None, keys: Sequence[str]
) -> list[CheckResult]:
    """Whether what went in came out: all rows, or the best of them, with keys to find them by."""
    every = found.rows if top_k is None else written  # then ``score_rows`` counted what was due
    results = [
        CheckResult(
            check="rows in = out" if top_k is None else f"best {top_k} of {found.rows} rows in",
            of="",
            expected=f"{every}",
            found=f"{written}",
            outcome="pass" if written == every else "fail",
        )
    ]
    for key in keys:
        # Some rows may have none; a column that no row has went missing from the day's files.
        nulls = found.nulls.get(key, 0)
        results.append(
            CheckResult(
                check="values",
                of=key,
                expected="a row with one",
                found=f"{found.rows - nulls} of {found.rows} rows",
                outcome="fail" if found.rows and nulls == found.rows else "pass",
            )
        )
    return results


def check_keys(policy: str, duplicates: int, keys: Sequence[str]) -> CheckResult:
    """Tell of rows whose keys an earlier row has."""
    outcome: Outcome = "pass"
    if duplicates:
        outcome = "fail" if policy == "fail" else "warn"
    return CheckResult(
        check="keys are unique",
        of=", ".join(keys),
        expected="no row with the keys of another",
        found=f"{duplicates} of them",
        outcome=outcome,
    )


def check_types(columns: Mapping[str, str], before: PartitionManifest) -> CheckResult:
    """Whether columns are of the types that they had on an earlier day, as readers of both need."""
    changed = [name for name in columns if before.columns.get(name, columns[name]) != columns[name]]
    return CheckResult(
        check=f"types of {before.ds}",
        of=", ".join(changed),
        expected=", ".join(before.columns[name] for name in changed) or "those",
        found=", ".join(columns[name] for name in changed) or "those",
        outcome="fail" if changed else "pass",
    )


def settle_gates(results: Sequence[CheckResult], of: str, *, forced: bool) -> None:
    """Tell of every breach; raise if they are to end the run.

    Args:
        results: What the gates found.
        of: What was scored, for the message.
        forced: Whether to publish in spite of them.

    Raises:
        DataError: A gate failed, and scores are not published in spite of it.
    """
    failed = [result for result in results if result.outcome == "fail"]
    if failed and not forced:
        raise DataError(
            "\n".join(
                [
                    f"{len(failed)} of {len(results)} gates failed for {of}; nothing was "
                    f"published. Mend the data, the model or what score.gates expects, or publish "
                    f"with --force:",
                    *(f"  {result.line()}" for result in failed),
                ]
            )
        )
    for result in results:
        if result.outcome != "pass":
            logger.warning("gate: %s", result.line())


def scores_index(expected: Cells, found: Cells) -> float:
    """Population stability index of scores, over some 20 bins with as many expected rows each.

    Scores that few rows share with many others in a cell stay together, so there may be fewer bins.
    """
    cells = np.array(sorted(expected))
    counts = np.array([expected[cell] for cell in cells])
    # The bin of a cell is that of its middle row.
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()
    first_of_bin = np.flatnonzero(np.diff(np.floor(middle * _BINS), prepend=-1))
    edges = cells[first_of_bin[1:]]
    return index_of_shares(_binned(expected, edges), _binned(found, edges))


def _binned(cells: Cells, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    bins = np.searchsorted(edges, list(cells), side="right")
    counts = np.bincount(bins, weights=list(cells.values()), minlength=len(edges) + 1)
    return counts.astype(np.float64)


def _within(limits: Limits, check: str, of: str, found: float) -> CheckResult:
    outcome: Outcome = "pass"
    if limits.warn is not None and found >= limits.warn:
        outcome = "warn"
    if limits.fail is not None and found >= limits.fail:
        outcome = "fail"
    told = {"warns": limits.warn, "fails": limits.fail}
    expected = ", ".join(f"{what} at {at:g}" for what, at in told.items() if at is not None)
    return CheckResult(
        check=check, of=of, expected=expected or "anything", found=f"{found:.4f}", outcome=outcome
    )
