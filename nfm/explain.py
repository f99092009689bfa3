"""What each field, and each pair of fields, adds to a model's output for a row.

A feature adds ``w_i x_i``, and a pair of features ``sum_k g_k v_ik v_jk x_i x_j``, where g is the
gradient of the output at the row's pooled vector p (the Bi-Interaction). Features are added up by
their fields.

- lr: there are no pairs, and w0 and the contributions add up to the output.
- fm: g is 1, and w0 and the contributions add up to the output (Rendle 2010, eq. 1).
- nfm: the layers f are linear around p where they are rectified, so the contributions are those of
  the plane that the row lies on: with the constant ``w0 + f(p) - g p``, which belongs to no field,
  they add up to the output. With tanh or sigmoid that plane is the tangent at p.

Shapes: B = rows, S = slots, F = fields, L = slots of one, K = factors, D = K + 1, P = pairs of
fields, and of a field with itself where a row has several of its values, C = F + P.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from conf.manifest import FieldSpec
from conf.partition import EXPLANATION_TYPE
from nfm.bundle import Bundle
from nfm.field_lookup import FIELDS


def explain(
    bundle: Bundle, ids_BS: torch.Tensor, x_BS: torch.Tensor, strongest: int
) -> pa.ListArray:
    """The strongest contributions to each row's output, by their absolute value, descending.

    Args:
        bundle: Of a model in ``conf.schema.EXPLAINED``.
        ids_BS: Global one-hot indices.
        x_BS: Values of those features.
        strongest: How many of them; a row has no more than C.

    Returns:
        Lists [B] of structs: ``first`` and ``second`` field, where the second of a field's own
        contribution is null, and ``contribution``, in units of the output.
    """
    found_BC = contributions(bundle, ids_BS, x_BS).double().numpy()
    order_BC = np.argsort(-np.abs(found_BC), axis=1, kind="stable")[:, :strongest]
    rows, length = order_BC.shape
    chosen = pa.array(order_BC.reshape(-1))
    first, second = (
        pa.array(column, pa.string()).take(chosen)
        for column in zip(*named_contributions(bundle), strict=True)
    )
    values = pa.array(np.take_along_axis(found_BC, order_BC, axis=1).reshape(-1))
    structs = pa.StructArray.from_arrays(
        [first, second, values], fields=list(EXPLANATION_TYPE.value_type)
    )
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * length, structs)


def named_contributions(bundle: Bundle) -> list[tuple[str, str | None]]:
    """The fields of the C contributions: those of one, then of two."""
    names = [field.name for field in bundle.manifest.fields]
    found: list[tuple[str, str | None]] = [(name, None) for name in names]
    if bundle.config.model.factors:
        pairs = zip(*_pairs(bundle.manifest.fields), strict=True)
        found += [(names[first], names[second]) for first, second in pairs]
    return found


@torch.no_grad()
def contributions(bundle: Bundle, ids_BS: torch.Tensor, x_BS: torch.Tensor) -> torch.Tensor:
    """All contributions to each row's output [B, C], in the order of their names."""
    fields_BFD = bundle.read(FIELDS, ids_BS, x_BS)[0].detach()
    own_BF, e_BFK = fields_BFD[..., -1], fields_BFD[..., :-1]
    if not bundle.config.model.factors:
        return own_BF
    several = _several(bundle.manifest.fields)
    squares_BFK = e_BFK.square()  # of each field's values, summed
    for field, slots in several.items():
        e_BLK = bundle.table_VD[ids_BS[:, slots], :-1] * x_BS[:, slots].unsqueeze(2)
        squares_BFK[:, field] = e_BLK.square().sum(dim=1)
    pooled_BK = (e_BFK.sum(dim=1).square() - squares_BFK.sum(dim=1)) / 2
    with torch.enable_grad():
        pooled_BK.requires_grad_()
        output_B = bundle.model(own_BF.sum(dim=1), pooled_BK)
        (g_BK,) = torch.autograd.grad(output_B.sum(), pooled_BK)
    pairs_BFF = (e_BFK * g_BK.unsqueeze(1)) @ e_BFK.transpose(1, 2)
    for field in several:
        inside_BK = (e_BFK[:, field].square() - squares_BFK[:, field]) / 2
        pairs_BFF[:, field, field] = (inside_BK * g_BK).sum(dim=1)
    first, second = _pairs(bundle.manifest.fields)
    return torch.cat([own_BF, pairs_BFF[:, first, second]], dim=1)


def _several(fields: Sequence[FieldSpec]) -> dict[int, slice]:
    """Per field of which a row has several values, where these are."""
    ends = np.cumsum([field.length for field in fields]).tolist()
    return {
        number: slice(end - field.length, end)
        for number, (field, end) in enumerate(zip(fields, ends, strict=True))
        if field.length > 1
    }


def _pairs(fields: Sequence[FieldSpec]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    first, second = np.triu_indices(len(fields))
    kept = (first != second) | np.isin(first, list(_several(fields)))
    return first[kept], second[kept]
