"""From configured fields to field specifications: first unfitted, then with what was fitted."""

from collections.abc import Sequence

from conf.manifest import FIRST_KNOWN, FieldSpec
from conf.schema import FieldConfig, MultiValuedField
from feature_eng.profile import Profile


def unfitted_specs(fields: Sequence[FieldConfig]) -> list[FieldSpec]:
    """What is known of each field before any row is seen."""
    return [
        FieldSpec(
            name=field.name,
            kind=field.kind,
            source=field.source,
            is_expr=field.expr is not None,
            cardinality=1,
            offset=0,
            length=field.max_length if isinstance(field, MultiValuedField) else 1,
        )
        for field in fields
    ]


def fitted_specs(
    specs: Sequence[FieldSpec], profile: Profile, vocabulary_sizes: dict[str, int]
) -> list[FieldSpec]:
    """Fill in statistics, cardinalities and the contiguous ranges of the one-hot space."""
    fitted = []
    offset = 0
    for spec in specs:
        update: dict[str, object] = {"offset": offset}
        if spec.kind == "numeric":
            mean, std = profile.moments[spec.name]
            update |= {"mean": mean, "std": std, "cardinality": 1}
        elif spec.kind == "bucketised":
            edges = profile.edges[spec.name]
            update |= {"edges": edges, "cardinality": FIRST_KNOWN + len(edges) + 1}
        else:
            update |= {"cardinality": FIRST_KNOWN + vocabulary_sizes.get(spec.name, 0)}
        fitted.append(spec.model_copy(update=update))
        offset += fitted[-1].cardinality
    return fitted
