import json
import time
from pathlib import Path

import pytest

from nfm.launch.progress import Progress
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


def test_a_launcher_sees_life_while_there_is_no_step(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.progress(1, 7, 9)
    with Progress(tmp_path, epochs=2) as progress:
        progress.look()
        time.sleep(0.3)
        progress.look()
        assert progress.silent_s >= 0.3
        log.alive()
        progress.look()
        assert progress.silent_s < 0.3
        assert progress.position == "after step 7 of 9 in epoch 2"
