"""How functions run in Spark's Python workers."""

import contextlib
import functools
import gc
import os
import socket
import stat
import sys
import zipimport
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

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

    At the end of every task Spark has Python look for garbage among all objects that there are
    (gc.collect in pyspark.daemon), 0.07 s of a core with the modules that are loaded here. What
    has outlived a task will outlive the next: it is looked through once.

    Between what to do and the rows of a task, sent one after the other, the JVM's kernel waits for
    our answer to the first (Nagle's algorithm), and ours for something to send with it: 0.04 s. It
    is told not to.
    """
    return functools.partial(_run, function)


def _run(function: Callable[[Batches], Batches], batches: Batches) -> Iterator[pa.RecordBatch]:
    _acknowledge()
    yield from function(batches)
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimport.zipimporter):
            del sys.path_importer_cache[path]
    gc.collect()
    gc.freeze()


def _acknowledge() -> None:
    """Acknowledge at once what came over the sockets of this process, one of which is the JVM's."""
    opened = Path("/proc/self/fd")  # Linux has it, and the option
    for name in os.listdir(opened) if opened.exists() else []:
        with contextlib.suppress(OSError):  # no socket, of no TCP, or closed by now
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as of_process:
                    of_process.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
