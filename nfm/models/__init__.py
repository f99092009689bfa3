"""The models, by the name they have in the configuration."""

from conf.schema import ModelConfig
from nfm.collectives import Collectives
from nfm.models.nfm import NFM

MODELS = {"nfm": NFM}


def build_model(config: ModelConfig, workers: Collectives) -> NFM:
    """The dense part of the configured model; the embedding table is apart (``nfm.table``)."""
    return MODELS[config.name](config, workers)
