"""What the jobs take as a day, and what they say of an error."""

import argparse
import signal
import socket
from pathlib import Path

import pytest
from py4j.clientserver import ClientServer, JavaParameters, PythonParameters
from py4j.java_gateway import GatewayParameters, JavaGateway

from conf.errors import RunError
from jobs.cli import Stage, day, explained, main, parser
from tests.data import write_config


def test_a_day_is_written_in_one_way() -> None:
    assert day("2024-02-29") == "2024-02-29"
    others = ("20260102", "2026-W01-5", "2026-1-2", "2026-02-29", " 2026-01-02", "yesterday", "")
    others += ("0001-01-01", "9999-12-31")
    for text in others:
        with pytest.raises(argparse.ArgumentTypeError) as refused:
            day(text)
        assert (
            str(refused.value)
            == f"invalid day value: '{text}'; expected YYYY-MM-DD, from 1000 to 9998"
        )


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (SystemExit(4), 4, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RunError("disk full"), 4, "error: disk full"),
        (AttributeError("a bug"), 1, "failed"),
    ],
)
def test_what_a_signal_raised_ends_a_job(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    raised: BaseException,
    code: int,
    told: str,
) -> None:
    """Not the error of a clean-up that failed after it."""

    def run(*_: object) -> list[Stage]:
        try:
            raise raised from ValueError("the one before it")
        finally:
            if not isinstance(raised, Exception):
                raise AttributeError("'NoneType' object has no attribute 'setCallSite'")

    monkeypatch.setattr("sys.argv", ["job", "--config", str(write_config(tmp_path))])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main(parser("A job.", ""), run, lambda *_: [])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == code
    assert told in capsys.readouterr().err + caplog.text
    failed = [record.exc_info for record in caplog.records if record.levelname == "ERROR"]
    causes = [str(info[1].__cause__) for info in failed if info and info[1]]
    assert causes == (["the one before it"] if code == 1 else [])


@pytest.mark.parametrize("python", [ClientServer, JavaGateway])
def test_a_jvm_that_died_is_named(python: type) -> None:
    """py4j raises an error of its own, or the socket's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if python is ClientServer:
        gateway = ClientServer(JavaParameters(port=port), PythonParameters(port=0))
    else:
        gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
    with pytest.raises(Exception) as failed:  # noqa: PT011 - py4j's choice
        gateway.jvm.System.currentTimeMillis()
    error = explained(failed.value)
    assert isinstance(error, RunError)
    assert "Spark's JVM does not answer" in str(error)
    assert "spark.driver.memory" in str(error)


def test_a_store_that_does_not_answer_is_no_jvm() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError) as failed:
            socket.create_connection(free.getsockname())
    assert "a file could not be read or written" in str(explained(failed.value))
