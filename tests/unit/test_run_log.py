import json
from pathlib import Path

import pytest

from nfm.run_log import METRICS, RunLog


@pytest.mark.parametrize("half", ['{"epo', '{"epoch": 2, "auc": 0.5', '{"epoch": 2}', "\0\0\0\0"])
def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path, half: str) -> None:
    log = RunLog(tmp_path)
    for epoch in range(2):
        log.epoch(epoch, {"auc": 0.5 + epoch / 8})
    with (tmp_path / METRICS).open("a") as file:
        file.write(half)  # and no end of the line
    log.start(2)
    log.epoch(2, {"auc": 0.75})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert lines == [{"epoch": epoch, "auc": 0.5 + epoch / 8} for epoch in range(3)]
