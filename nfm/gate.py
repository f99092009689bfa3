"""The gate before a model serves: it and the one that serves, judged on the same rows."""

from dataclasses import replace

import numpy as np
import torch

from conf.errors import DataError
from conf.evaluation import HIGHER_IS_BETTER, Metric
from conf.manifest import UNKNOWN, CheckResult, FieldSpec, Manifest, read_manifest
from conf.schema import Config
from nfm.bundle import Bundle, load_bundle
from nfm.evaluation import evaluate_split
from nfm.lookup import POOLED
from nfm.predict import check_vocabulary
from nfm.registry import Gate, now
from nfm.warm_start import shared_features

_NO_ROW = -1


def hold_gate(candidate: str, serving: str | None, config: Config) -> Gate:
    """Judge a candidate, and the model that serves, on the rows of ``evaluate.split``.

    Args:
        candidate: Path of its bundle.
        serving: Of the other; None where none serves yet: then only ``promote.bar`` counts.
        config: Says which rows, by what, and how much worse the candidate may be.

    Raises:
        DataError: A bundle or the features are damaged, or cannot be judged on these rows.
    """
    features, split = config.features.path, config.evaluate.split
    manifest = read_manifest(features)
    # One after the other: of two tables only one is in memory.
    metrics = {_id(path): _metrics(path, manifest, config) for path in (candidate, serving) if path}
    return Gate(
        model_id=_id(candidate),
        serving=_id(serving) if serving else None,
        features=features,
        split=split,
        rows=manifest.splits[split].rows,
        metrics=metrics,
        checks=_checks(_id(candidate), _id(serving) if serving else None, metrics, config),
        judged_at=now(),
    )


def judged_metric(config: Config) -> Metric:
    """What candidates are judged by."""
    return config.promote.metric or config.train.early_stopping.metric


def _metrics(path: str, manifest: Manifest, config: Config) -> dict[str, float]:
    """All metrics of a bundle on the split, ``judged_metric`` among them."""
    features = config.features.path
    bundle = on_features(load_bundle(path), path, manifest, features)
    asked = config.evaluate.model_copy(update={"segments": []})
    found = evaluate_split(bundle, features, manifest, asked).metrics
    if judged_metric(config) not in found:
        raise DataError(
            f"bundle '{bundle.model_id}' has no {judged_metric(config)} on '{asked.split}' of "
            f"'{features}', but {', '.join(found)}; name one of these as promote.metric, or give "
            f"the split rows that have it"
        )
    return found


def _checks(
    candidate: str, serving: str | None, metrics: dict[str, dict[str, float]], config: Config
) -> list[CheckResult]:
    metric, promote = judged_metric(config), config.promote
    rising = HIGHER_IS_BETTER[metric]
    limits: dict[str, tuple[float | None, str]] = {"bar": (promote.bar, "")}
    if serving is not None:
        theirs = metrics[serving][metric]
        worst = theirs - promote.tolerance if rising else theirs + promote.tolerance
        limits["serving model"] = worst, f" ({serving} has {theirs:.4f})"
    found, checks = metrics[candidate][metric], []
    for against, (limit, why) in limits.items():
        if limit is None:
            continue
        passed = found >= limit if rising else found <= limit
        checks.append(
            CheckResult(
                check=f"{metric} against the {against}",
                of=candidate,
                expected=f"at {'least' if rising else 'most'} {limit:.4f}{why}",
                found=f"{found:.4f}",
                outcome="pass" if passed else "fail",
            )
        )
    return checks


def on_features(bundle: Bundle, path: str, manifest: Manifest, features: str) -> Bundle:
    """A bundle whose ids are those of features that it was not trained on.

    Values are matched field by field through both vocabularies, so its outputs are those for the
    values that the features hold. A value that it does not know has its row of unknown ones, of
    several the first; a field that it does not have counts for nothing.

    Args:
        bundle: The model.
        path: Where it is.
        manifest: Of the features.
        features: Where they are.

    Raises:
        DataError: The features lack a field of the bundle or encode it otherwise, have another
            task, or one more field where the model does not add fields up.
    """
    try:
        check_vocabulary(bundle, manifest, features)
    except DataError:
        _check_comparable(bundle, manifest, features)
    else:
        return bundle
    theirs, ours = shared_features(bundle.manifest, path, manifest, features)
    row_V = np.full(manifest.num_features, _NO_ROW)
    known = {field.name: field for field in bundle.manifest.fields}
    for field in manifest.fields:
        if other := known.get(field.name):
            row_V[field.offset : field.offset + field.cardinality] = other.offset + UNKNOWN
    row_V[ours] = theirs
    table_VD = bundle.table_VD[torch.from_numpy(np.maximum(row_V, 0))]
    table_VD[torch.from_numpy(row_V == _NO_ROW)] = 0.0
    seen = bundle.manifest.model_copy(
        update={
            name: getattr(manifest, name)
            for name in ("fields", "num_features", "vocabulary_fingerprint")
        }
    )
    return replace(bundle, manifest=seen, table_VD=table_VD)


def _check_comparable(bundle: Bundle, manifest: Manifest, features: str) -> None:
    theirs: dict[str, FieldSpec] = {field.name: field for field in bundle.manifest.fields}
    ours = {field.name: field for field in manifest.fields}
    problem = None
    if bundle.manifest.task != manifest.task:
        problem = f"are for a {manifest.task} task"
    elif lost := [name for name in theirs if name not in ours]:
        problem = f"lack its field '{lost[0]}'"
    elif other := [name for name, field in theirs.items() if not ours[name].encodes_like(field)]:
        problem = f"encode its field '{other[0]}' otherwise"
    elif bundle.model.reads is not POOLED and list(theirs) != list(ours):
        problem = "have other fields, or in another order"
    if problem:
        raise DataError(
            f"bundle '{bundle.model_id}' cannot be judged on '{features}', which {problem}; build "
            f"the features with --base serving, so that what serves knows them, or promote "
            f"with --force"
        )


def _id(path: str) -> str:
    return path.rpartition("/")[2]
