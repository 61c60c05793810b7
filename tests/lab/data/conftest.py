"""A server with CIFAR-10's archive, and downloads from it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cifar10_archives import Handler, Server, md5

from alrc.lab.data.downloads import DownloadError, download_cifar10


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Callable[..., Path]:
    """Downloads what the server has to the folder ``data``, by default with the right checksum."""

    def fetch(checksum: str | None = None) -> Path:
        wanted = checksum or md5(server.content)
        return download_cifar10(tmp_path / "data", server.url, wanted, progress=False)

    return fetch


@pytest.fixture
def refused(fetch: Callable[..., Path], tmp_path: Path) -> Callable[..., str]:
    """The message of a download that fails; and nothing is left of it anywhere."""

    def refused(*arguments: str) -> str:
        with pytest.raises(DownloadError) as caught:
            fetch(*arguments)
        assert list(tmp_path.rglob("*")) == [tmp_path / "data"]
        return str(caught.value)

    return refused
