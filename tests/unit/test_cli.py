"""What the jobs say of an error."""

import socket

import pytest
from py4j.clientserver import ClientServer, JavaParameters, PythonParameters
from py4j.java_gateway import GatewayParameters, JavaGateway

from conf.errors import RunError
from jobs.cli import explained


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
