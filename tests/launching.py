"""Starts a script on two processes, as a user would."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TIMEOUT = 240  # seconds; a healthy run takes ten, and a hang must not last


def launch(launcher: str, script: str, folder: Path) -> None:
    """Runs the script, whose argument is the folder, with ``python -m launcher``.

    ``{port}`` in the launcher becomes a free one, which old versions of accelerate can't find.
    """
    with socket.create_server(("localhost", 0)) as server:
        launcher = launcher.format(port=server.getsockname()[1])
    (folder / "script.py").write_text(script)
    paths = [str(Path(__file__).parent), *sys.path]
    own = {"PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", *launcher.split(), "script.py", str(folder)],
        cwd=folder,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()  # the launcher then ends the processes it has started
            raise
    assert process.returncode == 0, output
