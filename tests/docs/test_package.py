"""The package: what an import does not do, what is missing, and what is public."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import alrc


def origin(front_end: str) -> str:
    return importlib.util.find_spec(f"alrc.{front_end}").origin


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_import_brings_in_nothing_but_the_standard_library() -> None:
    code = "import sys; old = set(sys.modules); import alrc; print(*(set(sys.modules) - old))"
    modules = {name.partition(".")[0] for name in run(code).stdout.split()} - {"alrc"}
    assert modules <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("front_end", "name"), [("torch", "PyTorch"), ("jax", "JAX"), ("keras", "Keras")]
)
def test_without_its_framework_a_front_end_says_what_to_install(
    monkeypatch, front_end: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, front_end, None)
    spec = importlib.util.spec_from_file_location("alrc.alone", origin(front_end))
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        f"alrc.{front_end} needs {name}, which is not installed here. Install it with: "
        f'pip install "alrc[{front_end}]"'
    )


def test_keras_without_its_backend_says_what_to_install(monkeypatch) -> None:
    class Missing:
        """Finds Keras, whose import fails for want of TensorFlow."""

        def find_spec(self, name, path=None, target=None):
            if name == "keras":
                raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    spec = importlib.util.spec_from_file_location("alrc.alone", origin("keras"))
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        "alrc.keras needs a backend for Keras, and tensorflow is not installed here. Install it, "
        "or set KERAS_BACKEND to one of tensorflow, jax and torch that is, before Python starts."
    )


def test_public_names() -> None:
    from alrc import jax, keras, torch
    from alrc.integrations import lightning, loggers, transformers

    assert alrc.__all__ == ["Settings", "__version__"]
    assert torch.__all__ == ["ALRC", "Moments", "clip", "init"]
    assert keras.__all__ == ["ALRC", "ALRCMixin", "ALRCModel"]
    assert lightning.__all__ == ["ALRCCallback"]
    assert transformers.__all__ == ["ALRCTrainerCallback", "ALRCTrainerMixin"]
    assert loggers.__all__ == ["Spike", "Watch", "read_spikes", "to_csv", "to_tensorboard"]
    assert jax.__all__ == ["Moments", "clip", "init", "scale_by_alrc"]


def test_the_oldest_versions_tested_are_the_bounds_of_the_extras() -> None:
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    bounds = {
        requirement
        for extra in ("jax", "keras", "lightning", "transformers")
        for requirement in extras["optional-dependencies"][extra]
        if not requirement.startswith("alrc")
    }
    pins = (root / "oldest.txt").read_text().splitlines()
    tested = {re.sub(r"\.0$", "", pin) for pin in pins if not pin.startswith("#")}
    assert {pin.replace("==", ">=") for pin in tested} == bounds
