"""The package: what imports what, and what an import does not do."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import alrc

SOURCE = Path(alrc.__file__).parent
# What each module may import of ours: arrows point down, never back and never sideways.
ARROWS = {
    "alrc": {"alrc.settings"},
    "alrc.settings": set(),
    "alrc.rule": {"alrc.settings"},
    "alrc.state": {"alrc.rule", "alrc.settings"},
    "alrc.opaque": {"alrc.rule"},
    "alrc.keras_inputs": {"alrc.rule", "alrc.settings"},
    "alrc.torch_inputs": {"alrc.rule", "alrc.settings", "alrc.state"},
    "alrc.ranks": {"alrc.rule"},
    "alrc.torch": {
        "alrc.ranks",
        "alrc.rule",
        "alrc.settings",
        "alrc.opaque",
        "alrc.state",
        "alrc.torch_inputs",
    },
    "alrc.jax": {"alrc", "alrc.rule", "alrc.settings", "alrc.state"},
    "alrc.keras": {
        "alrc.keras_inputs",
        "alrc.rule",
        "alrc.settings",
        "alrc.opaque",
        "alrc.state",
    },
    "alrc.integrations": set(),
    "alrc.integrations.gradients": {"alrc.torch"},
    "alrc.integrations.scalars": {"alrc.torch"},
    "alrc.integrations.passes": set(),
    "alrc.integrations.lightning": {
        "alrc.integrations.gradients",
        "alrc.integrations.passes",
        "alrc.integrations.scalars",
        "alrc.torch",
    },
    "alrc.integrations.transformers": {
        "alrc.integrations.gradients",
        "alrc.integrations.scalars",
        "alrc.torch",
    },
    "alrc.integrations.spikes": set(),
    "alrc.integrations.outlets": {"alrc.integrations.spikes"},
    "alrc.integrations.recording": {"alrc.integrations.spikes", "alrc.rule"},
    "alrc.integrations.loggers": {
        "alrc.integrations",
        "alrc.integrations.outlets",
        "alrc.integrations.recording",
        "alrc.integrations.scalars",
        "alrc.integrations.spikes",
        "alrc.rule",
        "alrc.torch",
    },
    "alrc.cli": {"alrc.lab"},
    "alrc.lab": {"alrc", "alrc.lab", "alrc.settings", "alrc.torch"},
}
CORE = ["alrc", "alrc.settings", "alrc.rule", "alrc.state"]


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in names if is_module(n)} or {node.module}
    return found


def is_module(name: str) -> bool:
    path = SOURCE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=module_name)
def test_imports_follow_the_arrows(path: Path) -> None:
    name = module_name(path)
    lab = name == "alrc.lab" or name.startswith("alrc.lab.")
    allowed = ARROWS["alrc.lab" if lab else name]
    ours = {n for n in imports(path) if n.partition(".")[0] == "alrc"}
    ours = {"alrc.lab" if n.startswith("alrc.lab.") else n for n in ours}
    assert ours <= allowed
    if name in CORE:
        roots = {n.partition(".")[0] for n in imports(path)} - {"alrc"}
        assert roots <= set(sys.stdlib_module_names)


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
    spec = importlib.util.spec_from_file_location("alone", SOURCE / f"{front_end}.py")
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
    spec = importlib.util.spec_from_file_location("alone", SOURCE / "keras.py")
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
    root = Path(__file__).parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    bounds = {
        requirement
        for extra in ("lightning", "transformers")
        for requirement in extras["optional-dependencies"][extra]
        if not requirement.startswith("alrc")
    }
    pins = (root / "oldest.txt").read_text().splitlines()
    tested = {re.sub(r"(\.0)?$", "", pin) for pin in pins if not pin.startswith("#")}
    assert {pin.replace("==", ">=") for pin in tested} == bounds
