"""Tiny archives with the files of CIFAR-10, and a server on this machine that hands them out."""

import hashlib
import io
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SUBSET = Path(__file__).parents[3] / "shared/data/cifar-10-subset/cifar-10-batches-bin"
NAME = "cifar-10-batches-bin"
BINARIES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
# One record in the first file, two in the second, and so on in turn.
FILES = {
    f"{NAME}/{name}": bytes([number]) * 3073 * (1 + number % 2)
    for number, name in enumerate(BINARIES)
} | {f"{NAME}/batches.meta.txt": b"airplane\n", f"{NAME}/readme.html": b"<p>"}
SIX_FILES = (
    "must be there, because it is one of the six binary files of CIFAR-10; it is missing. "
    "Download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz again, unpack it, and give "
    "its folder cifar-10-batches-bin."
)
BY_HAND = (
    "Pass another address with --url; or download it by hand, unpack it, and pass its folder "
    "cifar-10-batches-bin with --dir."
)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pack(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """A .tar.gz of a folder, these files, and then members without content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(member(NAME, tarfile.DIRTYPE))
        for name, content in files.items():
            info = member(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return packed.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


ARCHIVE = pack(FILES)


class Server(ThreadingHTTPServer):
    """Answers every request with ``content``, cut off after ``cut`` bytes if that is set."""

    content, cut, status, requests = ARCHIVE, None, 200, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar-10-binary.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut])

    def log_message(self, *arguments: object) -> None:
        pass


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """What unpacking by hand makes of the archive."""
    (folder / NAME).mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / NAME
