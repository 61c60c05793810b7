"""What ``alrc replay`` needs: its own extra and no more, and NumPy alone in a notebook."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )


def names(extra: str) -> set[str]:
    return {re.match(r"[\w.-]+", package)[0].replace("-", "_") for package in EXTRAS[extra]}


# Modules of the lab and of the front ends that the extra does not bring; rich and typer bring the
# others.
ABSENT = {
    *(names("lab") - {"alrc", "annotated_types", "pydantic"}),
    *("skimage", "sklearn", "torch", "jax", "optax", "keras", "tensorflow"),
    *("lightning", "transformers", "accelerate", "tensorboard", "mlflow", "wandb", "pandas"),
}


def test_the_command_runs_without_what_its_extra_does_not_bring(tmp_path) -> None:
    log = tmp_path / "loss.txt"
    np.savetxt(log, 2 + 0.05 * np.random.default_rng(0).normal(size=100))
    block = "import sys; sys.modules.update(dict.fromkeys({}, None)); "
    code = block.format(sorted(ABSENT)) + "from alrc.cli import main; main()"
    ended = python(code, "replay", log)
    assert ended.stderr == ""
    assert ended.stdout.startswith("calm: none of 100 losses stands out. ")
    ended = python(code, "replay", "--help")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_reading_and_replaying_need_numpy_alone(tmp_path) -> None:
    log = tmp_path / "loss.txt"
    np.savetxt(log, 2 + 0.05 * np.random.default_rng(0).normal(size=100))
    code = (
        "import sys; old = set(sys.modules); from alrc.replay import read_log, replay; "
        "replay(read_log(sys.argv[1])); print(*(set(sys.modules) - old))"
    )
    modules = {name.partition(".")[0] for name in python(code, log).stdout.split()}
    assert "numpy" in modules
    assert modules - {"alrc", "numpy"} <= set(sys.stdlib_module_names)


def test_the_lab_brings_what_the_command_needs() -> None:
    assert "alrc[replay,torch]" in EXTRAS["lab"]
