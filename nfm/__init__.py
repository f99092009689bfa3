"""PyTorch, Petastorm and Horovod: the model, the stream of batches, the distributed step."""

import conf  # noqa: F401 (tells numba where compiled loops are kept)
