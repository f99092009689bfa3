"""The factor of the learning rates, against values worked out by hand."""

import pytest

from conf.training import ScheduleConfig
from nfm.schedule import factor_at


@pytest.mark.parametrize(
    ("schedule", "step", "progress", "expected"),
    [
        ({}, 0, 0.0, 1.0),
        ({}, 999, 0.99, 1.0),
        ({"warmup_steps": 4}, 0, 0.0, 0.25),
        ({"warmup_steps": 4}, 3, 0.0, 1.0),
        ({"warmup_steps": 4}, 4, 0.5, 1.0),
        ({"decay": "linear"}, 0, 0.0, 1.0),
        ({"decay": "linear"}, 9, 0.75, 0.25),
        ({"decay": "linear", "final": 0.2}, 9, 0.75, 0.4),
        ({"decay": "cosine"}, 0, 0.0, 1.0),
        ({"decay": "cosine"}, 5, 1 / 3, 0.75),
        ({"decay": "cosine"}, 5, 0.5, 0.5),
        ({"decay": "cosine", "final": 0.1}, 5, 2 / 3, 0.325),
        ({"decay": "linear", "warmup_steps": 10}, 4, 0.5, 0.25),
    ],
)
def test_warm_up_times_decay(
    schedule: dict[str, object], step: int, progress: float, expected: float
) -> None:
    assert factor_at(ScheduleConfig.model_validate(schedule), step, progress) == pytest.approx(
        expected
    )
