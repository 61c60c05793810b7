"""Starts a program as a user would, on one process or on several, and leaves none behind.

``succeed(program, folder)`` is ``python program folder``; with ``launcher=TORCHRUN`` or
``launcher=ACCELERATE`` it runs on so many ``ranks``. What its ranks saw they write to a folder.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TORCHRUN = "torch.distributed.run --standalone --log-dir {logs} --nproc-per-node {ranks}"
# With --cpu, it starts one process, however many are asked for; --multi_gpu starts them all.
ACCELERATE = (
    "accelerate.commands.launch --multi_gpu --num_processes {ranks} --main_process_port {port}"
)
PATIENCE = 3600  # seconds; the longest takes 80, a busy machine longer; none may last for ever


def run(
    program: Path | str,
    *arguments: object,
    cwd: Path,
    launcher: str = "",
    ranks: int = 2,
    beside: str = "",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs the program in this folder, with these variables in its environment, to whatever end.

    Each process finds the modules that tests find, and those beside the file that is named; it
    has one thread and no GPU.
    """
    # Old versions can't find a free port. While this one is bound and not listening, it is given to
    # nobody else, and the launcher may still bind it.
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("", 0))
    port = held.getsockname()[1]
    paths = [*([str(Path(beside).parent)] if beside else []), *sys.path]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with held, tempfile.TemporaryDirectory() as logs:
        launched_by = launcher.format(ranks=ranks, port=port, logs=logs).split()
        words = [*(["-m", *launched_by] if launcher else []), program, *arguments]
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, **own, **variables},
        )
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()  # a launcher then ends the processes it has started
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeed(program: Path | str, *arguments: object, **options: Any) -> str:
    """Like :func:`run`, to a good end; returns what was printed."""
    done = run(program, *arguments, **options)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def launch(launcher: str, script: str, folder: Path, beside: str = "") -> None:
    """Runs a script, whose text this is and whose argument is the folder, there, on two ranks."""
    (folder / "script.py").write_text(script)
    options = {"launcher": launcher, "beside": beside, "HF_HOME": str(folder)}
    succeed("script.py", folder, cwd=folder, **options)


@contextmanager
def process_group(command: Sequence[str], **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own, of which nothing is left over."""
    process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
