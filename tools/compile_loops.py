"""Compile the loops of a step (``make setup``), for which the first training would wait.

numba keeps them in the user's cache directory, for every checkout with the same source.
"""

import torch

from conf.loader import load_config
from conf.manifest import FieldSpec
from nfm.batch import Batch
from nfm.collectives import Alone
from nfm.step import build_step

CONFIG = "conf/movielens100k.yaml"
MODELS = ("nfm", "fnn")  # one for each way of reading the table (nfm.lookup, nfm.field_lookup)
ROWS = 4


def main() -> None:
    """Take a step of each model."""
    names = ("one", "other")
    fields = [
        FieldSpec(
            name=name,
            kind="categorical",
            source=name,
            is_expr=False,
            cardinality=1,
            offset=number,
            length=1,
        )
        for number, name in enumerate(names)
    ]
    ids_BS = torch.arange(len(names), dtype=torch.int32).repeat(ROWS, 1)
    batch = Batch(ids_BS, torch.ones(ids_BS.shape), torch.ones(ROWS))
    for model in MODELS:
        config = load_config(CONFIG, [f"model.name={model}", "train.optimizer.clip_norm=1"])
        build_step(config, fields, Alone())(batch, ROWS)


if __name__ == "__main__":
    main()
