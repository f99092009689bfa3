"""How functions run in Spark's Python workers."""

import functools
import sys
import zipimport
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

Batches = Iterable[pa.RecordBatch]


def in_worker(
    function: Callable[[Batches], Batches],
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """A function for ``mapInArrow`` whose tasks, after a worker's first, start at once.

    At the start of every task Spark has Python forget what it knows of import paths
    (importlib.invalidate_caches in pyspark.worker), and Python then reads the directory of each
    archive among them again: pyspark.zip, py4j's and spark-core.jar, 0.2 to 0.3 s of a core,
    however little there is to do. What is not known need not be forgotten: an archive that some
    later import asks for is opened again.
    """
    return functools.partial(_run, function)


def _run(function: Callable[[Batches], Batches], batches: Batches) -> Iterator[pa.RecordBatch]:
    yield from function(batches)
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimport.zipimporter):
            del sys.path_importer_cache[path]
