"""The stream of batches out of Parquet. The one module that knows Petastorm.

Three stages, each in threads of its own, so that a step waits for none of them: Petastorm reads
and decodes row groups; ``_packed_blocks`` lays the rows of a block side by side; ``nfm.cut`` takes
them out in their shuffled order, as matrices. Petastorm's own loaders handle each column of
each row apart (``make bench-stream`` has them beside ours).

In memory at any time: the block that batches are cut from; the next one; of the one after that, the
first row groups, on their way from Petastorm; and a few batches.
"""

import contextlib
import itertools
import logging
import warnings
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow import filesystem as legacy

from conf import storage
from conf.errors import DataError
from conf.manifest import FieldSpec
from nfm.ahead import run_ahead
from nfm.batch import Batch, IntArray
from nfm.cut import PackedBlock, cut_batches
from nfm.encoded import REBUILD, columns_of, explain
from nfm.epoch_plan import Block
from nfm.file_cache import FileCache, read_bytes
from nfm.layout import Layout

# It warns of pyarrow's legacy classes at every use, in its own threads, and explains at INFO that
# plain Parquet holds no Petastorm metadata.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\b")
logging.getLogger("petastorm").setLevel(logging.WARNING)

from petastorm import make_batch_reader  # noqa: E402
from petastorm.workers_pool import EmptyResultError  # noqa: E402

# Enough for each stage to go on while the one before it begins a block.
_ROW_GROUPS_AHEAD, _BATCHES_AHEAD = 2, 4


def stream_batches(
    blocks: Sequence[Block],
    paths: Sequence[str],
    fields: Sequence[FieldSpec],
    *,
    batch_rows: int,
    weighted: bool = False,
    group_for: int | None = None,
    cache: FileCache | None = None,
) -> Generator[Batch, None, None]:
    """Read blocks in the given order, each once, and cut their rows into batches.

    Close it to end its threads; a loop that runs to its end, or an error in it, does so too.

    Args:
        blocks: What to read (see ``nfm.epoch_plan``).
        paths: All files of the split, each of one row group; blocks hold indices into them.
        fields: The manifest's fields.
        batch_rows: Rows of every batch but the last.
        weighted: Whether to read the weights of the rows, which only a training needs.
        group_for: Find the distinct ids of each batch ahead of its use, for a table whose rows are
            dealt out to so many workers; None leaves that to whoever needs them.
        cache: Where copies of the files are kept.

    Yields:
        Batches that hold all rows, in an order that depends on the arguments alone.

    Raises:
        DataError: A file is missing or damaged, or holds other columns or rows than planned.
        RunError: A store could not be read.
    """
    layout = Layout(fields, weighted=weighted)
    packed = run_ahead(_packed_blocks(blocks, paths, layout, cache), 1, "stream-blocks")
    rows = sum(block.rows_left for block in blocks)
    batches = cut_batches(packed, layout, batch_rows=batch_rows, rows=rows, group_for=group_for)
    return run_ahead(batches, _BATCHES_AHEAD, "stream-batches")


def _packed_blocks(
    blocks: Sequence[Block], paths: Sequence[str], layout: Layout, cache: FileCache | None
) -> Generator[PackedBlock, None, None]:
    # Two, in turn: who asks for a block has done with the one before the last.
    rooms = [layout.room(max(block.rows for block in blocks)) for _ in blocks[:2]]
    files = [[paths[index] for index in block.files] for block in blocks]
    row_groups = run_ahead(_row_groups(files, layout, cache), _ROW_GROUPS_AHEAD, "stream-reader")
    with contextlib.closing(row_groups):
        for block, mine, room in zip(blocks, files, itertools.cycle(rooms)):
            tables = iter(partial(next, row_groups), None)
            yield _pack(block, mine, layout, room[: block.rows], tables)


def _pack(
    block: Block, files: list[str], layout: Layout, rows_RS: IntArray, tables: Iterator[pa.Table]
) -> PackedBlock:
    ends = [0]
    for table in tables:
        start, end = ends[-1], ends[-1] + len(table)
        if len(ends) <= len(files) and end <= block.rows:
            columns = columns_of(table, layout.fields, layout.loss_columns, files[len(ends) - 1])
            layout.pack(columns, rows_RS[start:end])
        ends.append(end)
    if len(ends) - 1 != len(files) or ends[-1] != block.rows:
        raise DataError(
            f"'{files[0]}' and {len(files) - 1} more files: {ends[-1]} rows in {len(ends) - 1} row "
            f"groups, where the manifest counts {block.rows} in {len(files)}; {REBUILD}"
        )
    if block.entropy is None:
        order = np.arange(block.rows)
    else:
        order = np.random.default_rng(block.entropy).permutation(block.rows)
    return PackedBlock(rows_RS, order[block.skip :], files, np.array(ends[1:]))


def _row_groups(
    files: Sequence[list[str]], layout: Layout, cache: FileCache | None
) -> Generator[pa.Table | None, None, None]:
    """The row groups of the files of each block, in order, and None after each block."""
    for mine in files:
        yield from _read(_BlockFiles(mine, cache), layout)
        yield None


def _read(files: "_BlockFiles", layout: Layout) -> Generator[pa.Table, None, None]:
    """The row groups of some files, in order.

    One reader for each block, so that what waits inside Petastorm is bounded by the block, whatever
    the size of its queues, and an epoch can begin before all its files are looked at. One thread
    (pyarrow decodes the columns of a row group in parallel): of two, the faster one may come first.
    """
    try:
        reader = make_batch_reader(
            files.urls,
            schema_fields=[f"^({'|'.join([*layout.fields, *layout.loss_columns])})$"],
            reader_pool_type="thread",
            workers_count=1,
            shuffle_row_groups=False,
            num_epochs=1,
            filesystem=files,
        )
        reader._results_queue_reader = _ArrowTables()
        try:
            # Twice: a reader that has handed over all it holds while its last files are only just
            # being scheduled takes itself for done; it then goes on where it was.
            yield from itertools.chain(reader, reader)
        finally:
            reader.stop()
            reader.join()
    except Exception as error:
        raise explain(error, files.paths, files.open_path) from error


class _ArrowTables:
    """Makes a reader hand over row groups as they are: it would take lists apart row by row."""

    batched_output = True

    def read_next(self, pool: Any, schema: Any, ngram: Any) -> pa.Table:
        try:
            return pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _BlockFiles(legacy.FileSystem):  # type: ignore[misc]
    """What Petastorm takes for a file system: the files of a block, named 0, 1, 2.

    Petastorm opens each file three times, and with pyarrow 14 no file system of fsspec. Behind this
    one a remote file is read once and whole, for it holds the columns of the training and no other.
    """

    def __init__(self, paths: Sequence[str], cache: FileCache | None) -> None:
        super().__init__()
        self.paths = paths
        self.urls = [f"file:///{number}" for number in range(len(paths))]
        self._read = cache.read if cache else read_bytes
        self._cached = cache is not None
        self._content: dict[str, bytes] = {}

    def isfile(self, name: str) -> bool:
        return True

    def isdir(self, name: str) -> bool:
        return False

    def open(self, name: str, mode: str = "rb") -> pa.NativeFile:
        return self.open_path(self.paths[int(name.lstrip("/"))])

    def open_path(self, path: str) -> pa.NativeFile:
        fs, plain = storage.filesystem(path)
        if isinstance(fs, LocalFileSystem) and not self._cached:
            return pa.OSFile(plain)
        if path not in self._content:
            self._content[path] = self._read(path)
        return pa.BufferReader(self._content[path])
