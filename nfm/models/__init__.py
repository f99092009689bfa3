"""The models, by the name they have in the configuration."""

from conf.training import ModelConfig
from nfm.collectives import Collectives
from nfm.models.nfm import NFM

MODELS = {"nfm": NFM}


def build_model(config: ModelConfig, workers: Collectives, *, compiled: bool = False) -> NFM:
    """The dense part of the configured model; the embedding table is apart (``nfm.table``).

    Args:
        config: Sizes and rates.
        workers: Who trains it together.
        compiled: Whether compiled loops train it (CPU only), or plain torch.
    """
    return MODELS[config.name](config, workers, compiled=compiled)
