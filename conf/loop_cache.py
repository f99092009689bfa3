"""Where numba keeps our compiled loops: in the user's cache directory, named after their source.

By itself numba names a cache after the place of the code. Spark puts ``--py-files`` into a new
directory for every application, so each of its workers would compile for half a minute, each time;
so would every new checkout. ``conf`` tells numba of this module when it is imported.
"""

import functools
import hashlib
import os
from importlib.resources import files
from typing import Any

from numba.core.caching import UserWideCacheLocator, ZipCacheLocator

_OURS = ("feature_eng", "nfm")


class BySource:
    """Finds the place of a function's cache, as numba asks for it."""

    @staticmethod
    def from_function(py_func: Any, py_file: str) -> Any:
        """A locator; None, for the next in numba's list, if it is not our function or cannot be."""
        package = py_func.__module__.partition(".")[0]
        if package not in _OURS:
            return None
        kind: Any = ZipCacheLocator if ".zip" in py_file else UserWideCacheLocator
        locator = kind.from_function(py_func, py_file)
        if locator is None:
            return None
        caches = os.path.dirname(locator.get_cache_path())
        locator._cache_path = os.path.join(caches, f"{package}-{_source(package)}")
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator


@functools.cache
def _source(package: str) -> str:
    """A hash of its modules with loops, for those of one may be part of another's."""
    modules = sorted(files(package).iterdir(), key=lambda file: file.name)
    texts = [file.read_bytes() for file in modules if file.name.endswith(".py")]
    return hashlib.sha256(b"".join(text for text in texts if b"@njit" in text)).hexdigest()[:32]
