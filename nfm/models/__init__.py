"""The models. ``model.name`` of the configuration names the module here whose ``Model`` it is."""

from collections.abc import Sequence
from importlib import import_module

from conf.manifest import FieldSpec
from conf.training import ModelConfig
from nfm.collectives import Collectives
from nfm.table_model import Layers, TableModel


def build_model(
    config: ModelConfig,
    fields: Sequence[FieldSpec],
    workers: Collectives,
    *,
    compiled: bool = False,
) -> TableModel:
    """The dense part of the configured model; the embedding table is apart (``nfm.table``).

    Args:
        config: Name, sizes and rates.
        fields: What the rows consist of.
        workers: Who trains it together.
        compiled: Whether it runs in compiled loops (CPU only), or plain torch.
    """
    module = import_module(f"nfm.models.{config.name}")
    model: TableModel = module.Model(config, fields, Layers(config, workers, compiled=compiled))
    return model
