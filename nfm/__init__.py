"""PyTorch, Petastorm and Horovod: the model, the stream of batches, the distributed step."""

import os

# Read by numba when it is imported.
os.environ.setdefault(
    "NUMBA_CACHE_LOCATOR_CLASSES",
    "UserProvidedCacheLocator,nfm.loop_cache.BySource,InTreeCacheLocator,UserWideCacheLocator",
)
