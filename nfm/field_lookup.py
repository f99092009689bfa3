"""A model that reads the table field by field: for each, the sum of its rows times their x.

A field with one value gives x_i [v_i | w_i]; one with several their weighted sum. ``nfm.lookup``
has the rest of the story.

Shapes: B = rows of a batch, S = slots, F = fields, K = factors, D = K + 1, U = distinct ids.
"""

import numpy as np
import torch

from nfm import field_kernels, row_kernels
from nfm.batch import Batch
from nfm.lookup import KernelLookup, Reading, Rows, Tensors, TorchLookup, Upstream


def read_fields(
    weight_XD: torch.Tensor, index_BS: torch.Tensor, x_BS: torch.Tensor, field_S: torch.Tensor
) -> Tensors:
    """Per field, sum_s x_s [v_s | w_s]: one tensor [B, F, D]."""
    xrows_BSD = weight_XD[index_BS] * x_BS.unsqueeze(-1)
    fields_BFD = xrows_BSD.new_zeros(len(index_BS), int(field_S[-1]) + 1, weight_XD.shape[1])
    return (fields_BFD.index_add(1, field_S, xrows_BSD),)


class TorchFields(TorchLookup):
    """The gradient of a slot is x times that of its field."""

    def read(self, weight_XD: torch.Tensor) -> Tensors:
        """One tensor [B, F, D]."""
        return read_fields(weight_XD, self.rows.index_BS, self.batch.x_BS, self.field_S)

    def gradient_of_slots(self, grads: Tensors) -> torch.Tensor:
        """The gradient of the row in each slot, penalties apart: [B, S, D]."""
        return grads[0][:, self.field_S] * self.batch.x_BS.unsqueeze(-1)


class KernelFields(KernelLookup):
    """The loops of ``nfm.field_kernels``."""

    def forward(self, rows: Rows, batch: Batch) -> Tensors:
        """One tensor [B, F, D]; it asks autograd for its gradient."""
        self.rows, self.batch = rows, batch
        weight_XD, field_S = rows.weight_XD.numpy(), self.field_S.numpy()
        shape = len(batch), int(field_S[-1]) + 1, weight_XD.shape[1]
        fields_BFD = np.empty(shape, weight_XD.dtype)
        field_kernels.read(
            weight_XD, rows.index_BS.numpy(), batch.x_BS.numpy(), field_S, fields_BFD
        )
        return (torch.from_numpy(fields_BFD).requires_grad_(),)

    def run(
        self,
        upstream: Upstream,
        out_UD: row_kernels.Array,
        rule: int,
        moments: tuple[row_kernels.Array, row_kernels.Array],
        constants: row_kernels.Array,
    ) -> None:
        """Write the gradient of the distinct rows, or step them by it."""
        groups = self.batch.groups
        field_kernels.gradient(
            *(self.rows.weight_XD.numpy(), self.rows.of_distinct(self.batch).numpy()),
            *(groups.start.numpy(), groups.positions_N.numpy()),
            *(self.batch.x_BS.numpy(), self.field_S.numpy()),
            upstream.grads[0].contiguous().numpy(),
            *(upstream.l1_D.numpy(), upstream.l2_D.numpy(), out_UD),
            rule=rule,
            first_XD=moments[0],
            second_XD=moments[1],
            constants=constants,
        )


FIELDS = Reading(read_fields, TorchFields, KernelFields)
