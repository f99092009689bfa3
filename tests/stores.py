"""An object store for tests, on the loopback."""

import contextlib
import urllib.request
from collections.abc import Iterator

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from conf import storage


class ObjectStore:
    """A store with one empty bucket, ``lake``."""

    def __init__(self) -> None:
        self.server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        # Its content belongs to the process, not to the server.
        urllib.request.urlopen(f"{self.endpoint}/moto-api/reset", data=b"", timeout=10).close()

    @classmethod
    @contextlib.contextmanager
    def running(cls, monkeypatch: pytest.MonkeyPatch) -> Iterator["ObjectStore"]:
        """The store that all ``s3://`` means, for a while."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = cls()
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        fs, _ = storage.filesystem("s3://lake")
        fs.mkdir("lake")
        yield store
        s3fs.S3FileSystem.clear_instance_cache()
        store.server.stop()
