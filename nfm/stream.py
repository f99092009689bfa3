"""The stream of batches out of Parquet. The one module that knows Petastorm.

Petastorm reads whole row groups in its own threads while a step computes; rows are laid out,
shuffled and cut into batches here, because its loaders handle each column of each row apart
(20 to 100 times slower).
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from conf import storage
from conf.manifest import FieldSpec
from conf.schema import LABEL
from nfm.batch import Batch, FloatArray, IntArray, assemble, label_of, to_batch

# It warns of pyarrow's legacy classes at every use, in its own threads, and explains at INFO that
# plain Parquet holds no Petastorm metadata.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\b")
logging.getLogger("petastorm").setLevel(logging.WARNING)

from petastorm import make_batch_reader  # noqa: E402

Rows = tuple[IntArray, FloatArray, FloatArray]

_READER_THREADS = 2


def stream_batches(
    paths: Sequence[str],
    fields: Sequence[FieldSpec],
    *,
    batch_rows: int,
    shuffle_rows: int = 0,
    rng: np.random.Generator | None = None,
) -> Iterator[Batch]:
    """Read files in the given order, each once, and cut their rows into batches.

    Args:
        paths: Parquet files, each of one row group.
        fields: The manifest's fields.
        batch_rows: Rows of every batch but the last.
        shuffle_rows: With ``rng``: rows gathered, over row groups, before they are shuffled.
        rng: Source of the shuffle; None keeps the order of the files.

    Yields:
        Batches that hold all rows, in an order that depends on the arguments alone.
    """
    held: list[Rows] = []
    for block in _row_groups(paths, fields):
        held.append(block)
        if sum(len(label) for _, _, label in held) >= max(shuffle_rows, batch_rows):
            whole, rest = _cut(_gather(held, rng), batch_rows)
            yield from whole
            held = [rest]
    if held:
        whole, (ids, x, label) = _cut(_gather(held, rng), batch_rows)
        yield from whole
        if len(label):
            yield to_batch(ids, x, label)


def _row_groups(paths: Sequence[str], fields: Sequence[FieldSpec]) -> Iterator[Rows]:
    if not paths:
        return
    urls = [_url(path) for path in paths]
    columns = [field.name for field in fields] + [LABEL]
    reader = make_batch_reader(
        urls,
        schema_fields=[f"^{name}$" for name in columns],
        reader_pool_type="thread",
        workers_count=_READER_THREADS,
        shuffle_row_groups=False,
        num_epochs=1,
    )
    try:
        for group in reader:
            found = group._asdict()
            yield *assemble(found, fields), label_of(found)
    finally:
        reader.stop()
        with contextlib.redirect_stdout(io.StringIO()):  # "Cache cleanup complete."
            reader.join()


def _url(path: str) -> str:
    fs, plain = storage.filesystem(path)
    return str(fs.unstrip_protocol(plain))


def _gather(blocks: list[Rows], rng: np.random.Generator | None) -> Rows:
    ids, x, label = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    if rng is None:
        return ids, x, label
    order = rng.permutation(len(label))
    return ids[order], x[order], label[order]


def _cut(rows: Rows, batch_rows: int) -> tuple[list[Batch], Rows]:
    """Full batches, and the rows left over."""
    ids, x, label = rows
    end = len(label) - len(label) % batch_rows
    cuts = [slice(start, start + batch_rows) for start in range(0, end, batch_rows)]
    batches = [to_batch(ids[cut], x[cut], label[cut]) for cut in cuts]
    return batches, (ids[end:], x[end:], label[end:])
