"""Contributions to an output against sums over pairs of features, one row and pair at a time."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nfm.batch import assemble
from nfm.bundle import Bundle
from nfm.explain import contributions, explain, named_contributions
from tests.bundles import FIELDS, bundle_of, columns

ROWS = 12
NAMES = [field.name for field in FIELDS]
OF_SLOT = [name for field in FIELDS for name in [field.name] * field.length]
PAIRS = [
    (first, second)
    for first, second in itertools.combinations_with_replacement(NAMES, 2)
    if first != second or first in ("tags", "words")
]


def double(root: Path, *overrides: str) -> tuple[Bundle, torch.Tensor, torch.Tensor]:
    """A bundle of float64, and rows for it."""
    bundle = bundle_of(root, *overrides, dtype=torch.float64)
    ids, x = assemble(columns(ROWS), FIELDS)
    return bundle, torch.from_numpy(ids), torch.from_numpy(x).double()


def outputs(bundle: Bundle, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    read = bundle.model.reads.read(bundle.table_VD, ids, x, bundle.field_of_slots)
    return bundle.model(*read).detach()


def by_hand(
    bundle: Bundle, ids: torch.Tensor, x: torch.Tensor
) -> list[dict[tuple[str, str | None], float]]:
    """Derivatives by a multiplier of each contribution, which is 1."""
    found = []
    for row in range(ROWS):
        of_slot = bundle.table_VD[ids[row]] * x[row].unsqueeze(1)
        linear, e = of_slot[:, -1].sum().unsqueeze(0), of_slot[:, :-1]
        multipliers = torch.ones(len(PAIRS), dtype=torch.float64, requires_grad=True)
        pooled = torch.zeros_like(e[0])
        for one, other in itertools.combinations(range(len(OF_SLOT)), 2):
            pair = PAIRS.index((OF_SLOT[one], OF_SLOT[other]))
            pooled = pooled + multipliers[pair] * e[one] * e[other]
        bundle.model(linear, pooled.unsqueeze(0)).sum().backward()
        own = {
            (name, None): math.fsum(
                float(of_slot[s, -1]) for s, of in enumerate(OF_SLOT) if of == name
            )
            for name in NAMES
        }
        found.append(own | dict(zip(PAIRS, multipliers.grad.tolist(), strict=True)))
    return found


NFM = ("model.name=nfm", "model.embedding_dim=6", "model.hidden=[9, 5]")


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.name=fm", "model.embedding_dim=6"),
        NFM,
        (*NFM, "model.batch_norm=none"),
        (*NFM, "model.activation=tanh"),
    ],
)
def test_contributions_are_those_of_each_pair(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    bundle, ids, x = double(tmp_path, *overrides)
    names, found = named_contributions(bundle), contributions(bundle, ids, x)
    assert found.shape == (ROWS, len(NAMES) + len(PAIRS))
    for row, expected in enumerate(by_hand(bundle, ids, x)):
        assert dict(zip(names, found[row].tolist(), strict=True)) == pytest.approx(expected)


@pytest.mark.parametrize("model", ["lr", "fm"])
def test_contributions_add_up_to_the_output(tmp_path: Path, model: str) -> None:
    bundle, ids, x = double(tmp_path, f"model.name={model}")
    found = bundle.model.bias.detach() + contributions(bundle, ids, x).sum(dim=1)
    torch.testing.assert_close(found, outputs(bundle, ids, x))


def test_rectified_layers_are_a_plane_around_a_row(tmp_path: Path) -> None:
    """A little more of all pairs adds as much of their contributions, without any remainder."""
    bundle, ids, x = double(tmp_path, *NFM)
    linear, pooled = bundle.model.reads.read(bundle.table_VD, ids, x, bundle.field_of_slots)
    pairs = contributions(bundle, ids, x)[:, len(NAMES) :].sum(dim=1)
    more = bundle.model(linear, 1.0001 * pooled) - bundle.model(linear, pooled)
    torch.testing.assert_close(more.detach(), 0.0001 * pairs, rtol=1e-7, atol=1e-12)


def test_the_strongest_are_listed(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, *NFM)
    ids, x = map(torch.from_numpy, assemble(columns(ROWS), FIELDS))
    names, every = named_contributions(bundle), contributions(bundle, ids, x).tolist()
    for strongest in (1, 4, 100):
        listed = explain(bundle, ids, x, strongest)
        assert str(listed.type) == (
            "list<item: struct<first: string, second: string, contribution: double>>"
        )
        for row, found in enumerate(listed.to_pylist()):
            ranked = sorted(zip(every[row], names, strict=True), key=lambda c: -abs(c[0]))
            assert found == [
                {"first": first, "second": second, "contribution": value}
                for value, (first, second) in ranked[:strongest]
            ]


def test_a_linear_model_has_no_pairs(tmp_path: Path) -> None:
    bundle, ids, x = double(tmp_path, "model.name=lr")
    own = bundle.table_VD[ids, 0] * x
    expected = np.stack(
        [own[:, [of == name for of in OF_SLOT]].sum(dim=1).numpy() for name in NAMES], axis=1
    )
    np.testing.assert_allclose(contributions(bundle, ids, x), expected)
    listed = explain(bundle, ids, x, 2).to_pylist()
    assert [contribution["second"] for row in listed for contribution in row] == [None] * 2 * ROWS
