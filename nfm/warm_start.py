"""A training that begins from an earlier bundle: what both know is copied, value by value."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from conf.manifest import Manifest
from conf.vocabulary import value_ids
from nfm.bundle import Bundle
from nfm.step import TrainStep
from nfm.table_model import TableModel

Indices = npt.NDArray[np.int64]


def warm_start(
    step: TrainStep, manifest: Manifest, features: str, bundle: Bundle, bundle_path: str
) -> int:
    """Copy the embeddings of all values that the bundle knows, and its layers.

    Values are matched field by field through both vocabularies. Fields that are encoded otherwise
    and new values stay as they were initialised, and so do the layers, but for w0, where the model,
    its shape or its fields are not the same.

    Args:
        step: The model and its table, at step 0; as wide as the bundle's.
        manifest: Of the features to train on.
        features: Where they are.
        bundle: To begin from.
        bundle_path: Where it is.

    Returns:
        Rows of the whole table that were copied.
    """
    theirs, ours = shared_features(bundle.manifest, bundle_path, manifest, features)
    table = step.table
    mine = ours % table.shards == table.shard
    rows = torch.from_numpy(ours[mine] // table.shards)
    table.weight_RD[rows] = bundle.table_VD[torch.from_numpy(theirs[mine])].to(table.weight_RD)
    if _has_layers_of(bundle, step.model, manifest):
        step.model.load_state_dict(bundle.model.state_dict())
    else:
        step.model.bias.data.copy_(bundle.model.bias)
    return len(ours)


def _has_layers_of(bundle: Bundle, model: TableModel, manifest: Manifest) -> bool:
    """Whether each layer means the same in both: one model, which gives it the same fields."""
    ours, theirs = (
        (
            type(dense),
            [field.name for field in fields],
            dense.deep,
            {name: tensor.shape for name, tensor in dense.state_dict().items()},
        )
        for dense, fields in ((model, manifest.fields), (bundle.model, bundle.manifest.fields))
    )
    return ours == theirs


def shared_features(
    theirs: Manifest, their_path: str, ours: Manifest, our_path: str
) -> tuple[Indices, Indices]:
    """The global indices of the same features in two manifests: pairs, each feature once."""
    before = {field.name: field for field in theirs.fields}
    pairs = []
    for field in ours.fields:
        other = before.get(field.name)
        if other is None or not field.encodes_like(other):
            continue
        # Missing, unknown and, without a vocabulary, all others: they are in the same order.
        plain = np.arange(field.first_known if field.has_vocabulary else field.cardinality)
        pairs.append((other.offset + plain, field.offset + plain))
        if field.has_vocabulary:
            known = _ids(their_path, field.name, "theirs").join(
                _ids(our_path, field.name, "ours"), "value", join_type="inner"
            )
            pairs.append(
                (other.offset + known["theirs"].to_numpy(), field.offset + known["ours"].to_numpy())
            )
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    one, other_way = (np.concatenate(side).astype(np.int64) for side in zip(*pairs, strict=True))
    return one, other_way


def _ids(directory: str, field: str, name: str) -> pa.Table:
    """Values of a field and their ids."""
    return value_ids(directory, field).rename_columns(["value", name])
