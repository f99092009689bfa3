"""What a run is: the typed configuration, its loader, the manifest contract, the errors."""

import os

# Read by numba when it is imported; so the packages with compiled loops import this one first.
os.environ.setdefault(
    "NUMBA_CACHE_LOCATOR_CLASSES",
    "UserProvidedCacheLocator,conf.loop_cache.BySource,InTreeCacheLocator,UserWideCacheLocator",
)
