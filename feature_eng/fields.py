"""From configured fields to field specifications: first unfitted, then with what was fitted."""

import re
from collections.abc import Mapping, Sequence

from conf.fields import (
    BucketisedField,
    CategoricalField,
    FieldConfig,
    HashedField,
    MultiValuedField,
    NumericField,
    VocabularyOptions,
)
from conf.manifest import FieldSpec
from conf.schema import SPLITS
from feature_eng.base import Base
from feature_eng.profile import Profile
from feature_eng.raw import quoted
from feature_eng.write import WrittenSplit

# Parts of a date whose Spark function has another name.
_PARTS = {"week": "weekofyear", "day_of_year": "dayofyear"}


def unfitted_specs(fields: Sequence[FieldConfig]) -> list[FieldSpec]:
    """What is known of each field before any row is seen."""
    return [_unfitted(field) for field in fields]


def _unfitted(field: FieldConfig) -> FieldSpec:
    source, is_expr = _source(field)
    update: dict[str, object] = {}
    if isinstance(field, VocabularyOptions):
        update["oov_buckets"] = field.num_oov_buckets
    if isinstance(field, HashedField):
        update |= {"oov_buckets": field.num_buckets, "seed": field.seed}
    elif isinstance(field, MultiValuedField):
        update |= {"length": field.max_length, "weighting": field.weighting}
    elif isinstance(field, NumericField):
        update |= {"clip": field.clip, "log1p": field.log1p, "fitting": f"scale {field.scale}"}
    elif isinstance(field, BucketisedField):
        update["fitting"] = _buckets(field)
    return FieldSpec(
        name=field.name,
        kind=field.kind,
        source=source,
        is_expr=is_expr,
        cardinality=1,
        offset=0,
        length=1,
    ).model_copy(update=update)


def _buckets(field: BucketisedField) -> str:
    """What decides about the edges; the number of buckets counts for quantiles alone."""
    of = {"quantile": f", num_buckets {field.num_buckets}", "edges": f" {field.edges}"}
    return f"method {field.method}{of.get(field.method, '')}"


def _source(field: FieldConfig) -> tuple[str, bool]:
    """The raw column; or a SQL expression, and True."""
    plain = field.column or field.name
    if isinstance(field, CategoricalField | HashedField):
        if field.cross:
            columns = [quoted(column) for column in field.cross]
            missing = " or ".join(f"{column} is null" for column in columns)
            values = ", ".join(f"cast({column} as string)" for column in columns)
            return f"if({missing}, null, to_json(array({values})))", True
        if field.part:
            function = _PARTS.get(field.part, field.part)
            return f"{function}({field.expr or quoted(plain)})", True
    if isinstance(field, MultiValuedField) and field.delimiter:
        pattern = re.escape(field.delimiter).replace("\\", "\\\\").replace("'", "\\'")
        parts = f"split({field.expr or quoted(plain)}, '{pattern}')"
        return f"filter({parts}, item -> item != '')", True
    return (field.expr, True) if field.expr else (plain, False)


def fitted_specs(
    specs: Sequence[FieldSpec],
    fields: Sequence[FieldConfig],
    profile: Profile,
    vocabulary_sizes: dict[str, int],
    base: Base | None = None,
) -> list[FieldSpec]:
    """Fill in statistics, cardinalities and the contiguous ranges of the one-hot space.

    Edges and scales of a field that the base has stay as they are there.
    """
    fitted = []
    offset = 0
    for spec, field in zip(specs, fields, strict=True):
        update: dict[str, object] = {"offset": offset}
        before = base.field(spec.name) if base else None
        if isinstance(field, NumericField):
            shift, scale = profile.scales[spec.name]
            if before:
                shift, scale = before.shift, before.scale
            update |= {"shift": shift, "scale": scale, "cardinality": 1}
            update["missing_rate"] = profile.missing[spec.name]
        elif isinstance(field, BucketisedField):
            edges = before.edges if before else profile.edges[spec.name]
            update |= {"edges": edges, "cardinality": spec.first_known + len(edges) + 1}
        else:
            known = vocabulary_sizes.get(spec.name, 0)
            update |= {"cardinality": spec.first_known + known}
        if isinstance(field, MultiValuedField):
            update["truncated_rate"] = profile.truncated[spec.name]
        fitted.append(spec.model_copy(update=update))
        offset += fitted[-1].cardinality
    return fitted


def with_rates(fields: Sequence[FieldSpec], written: Mapping[str, WrittenSplit]) -> list[FieldSpec]:
    """Fill in the shares of missing and of unknown values per split, as they were written."""
    rated = []
    for number, field in enumerate(fields):
        update: dict[str, object] = {}
        if field.kind != "numeric":
            cells = {split: written[split].cells[number] for split in SPLITS}
            rows = {split: sum(file.rows for file in written[split].files) for split in SPLITS}
            update["missing_rate"] = {s: int(cells[s][0]) / rows[s] for s in SPLITS}
            update["histogram"] = cells["train"].tolist()
            update["oov_rate"] = {
                s: int(cells[s][1]) / max(1, int(cells[s][1:].sum())) for s in SPLITS
            }
        rated.append(field.model_copy(update=update))
    return rated
