"""Which value made a step's loss or gradient infinite or NaN.

Shapes: B = rows of a batch, S = slots.
"""

import math
from collections.abc import Sequence

import torch

from conf.manifest import FieldSpec
from nfm.batch import Batch
from nfm.collectives import Collectives
from nfm.lookup import Rows

_TEXT_BYTES = 512


def blame(batch: Batch, rows: Rows, fields: Sequence[FieldSpec], workers: Collectives) -> str:
    """Name the field and the row group of the value that weighs most; all workers call it.

    A NaN weighs more than an infinity, and that more than any number; a value's weight is that
    of the largest |x_i v_i| it brings. A label or sample weight of up to 1 is never to blame.

    Returns:
        The same text on every worker.
    """
    weight, text = _heaviest(batch, rows, fields)
    encoded = torch.zeros(1, _TEXT_BYTES, dtype=torch.uint8)
    raw = text.encode()[:_TEXT_BYTES]
    encoded[0, : len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    weights = workers.gather(torch.tensor([weight], dtype=torch.float64), "blame.weight")
    texts = workers.gather(encoded, "blame.text")
    found = bytes(texts[int(weights.argmax())].tolist())
    return found.rstrip(b"\0").decode(errors="replace")


def _heaviest(batch: Batch, rows: Rows, fields: Sequence[FieldSpec]) -> tuple[float, str]:
    """Of this worker's rows: the weight, and what it belongs to."""
    if not len(batch):
        return -1.0, ""
    v_BS = rows.weight_XD[rows.index_BS].abs().amax(dim=-1).cpu()
    xv_BS = torch.where(batch.x_BS != 0, _weight(batch.x_BS * v_BS), 0.0)
    row, slot = divmod(int(xv_BS.argmax()), xv_BS.shape[1])
    field = [field.name for field in fields for _ in range(field.length)][slot]
    weight, x, v = (float(matrix[row, slot]) for matrix in (xv_BS, batch.x_BS, v_BS))
    text = f"field '{field}' with x = {x:g} and |v| up to {v:g}"
    for what, values_B in (("label", batch.label_B), ("sample weight", batch.weight_B)):
        if values_B is not None and float(_weight(values_B).max()) > max(weight, 1.0):
            row = int(_weight(values_B).argmax())
            weight, text = float(_weight(values_B)[row]), f"the {what} {float(values_B[row]):g}"
    return weight, f"{text}, in {batch.files_of()[row]}" if batch.files_of else text


def _weight(values: torch.Tensor) -> torch.Tensor:
    """Magnitudes in which infinities, and above them NaN, can be compared."""
    largest = torch.finfo(torch.float64).max
    return values.double().abs().nan_to_num(nan=math.inf, posinf=largest)
