"""Who is blamed where it is none of the inputs."""

import torch

from nfm.batch import Batch
from nfm.collectives import Alone
from nfm.diagnosis import blame
from nfm.lookup import Rows
from tests.bundles import FIELDS


def test_layers_that_diverge_are_not_the_fault_of_a_label() -> None:
    """All numbers are small: what weighs most is named, not the label 1 of half of the rows."""
    slots = sum(field.length for field in FIELDS)
    ids_BS = torch.arange(3 * slots, dtype=torch.int32).view(3, slots)
    weight_VD = torch.full((3 * slots, 3), 0.01)
    weight_VD[ids_BS[1, 0], 1] = -0.5
    batch = Batch(ids_BS, torch.ones(3, slots), torch.tensor([0.0, 1.0, 1.0]))
    text = blame(batch, Rows(weight_VD, ids_BS, None), FIELDS, Alone())
    assert text == f"field '{FIELDS[0].name}' with x = 1 and |v| up to 0.5"
