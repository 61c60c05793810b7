"""What code of one's own imports from beside it is part of what fixes a run."""

from pathlib import Path

import pytest
import tiny

from alrc.lab.engine.naming import Named
from alrc.lab.engine.sources import sources

TASK = "import {0}\nfrom alrc.lab.api import Task\nclass Own(Task): pass\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / f"{name.replace('__in__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_files_beside_are_followed_and_nothing_else(tmp_path: Path) -> None:
    write(
        tmp_path,
        task="import os, near\nfrom parts.one import x\ndef f():\n    import late\n",
        near="import far, task\n",
        far="from . import nothing\n",
        late="def broken(:\n",
        unused="",
        parts__in__one="x = 1\n",
        parts__in__two="",
    )
    first, *others = [p.relative_to(tmp_path).as_posix() for p in sources(tmp_path / "task.py")]
    assert first == "task.py"
    assert others == ["far.py", "late.py", "near.py", "parts/one.py", "parts/two.py"]


def test_a_change_of_what_is_imported_is_another_run(tmp_path: Path) -> None:
    own = Path(tiny.__file__).read_text()
    configs = []
    for i, text in enumerate(("", "# changed\n")):
        folder = write(tmp_path / str(i), own=own, near_own=text)
        (folder / "own.py").write_text(own + "\n\ndef late():\n    import near_own\n")
        config = tiny.spec("Line", f"{folder}/own.py").config
        assert list(config["sources"]) == ["own.py", "near_own.py"]
        configs.append(config)
    one, other = (config["sources"].pop("near_own.py") for config in configs)
    assert one != other
    assert configs[0] == configs[1]


def test_a_module_of_another_folder_is_not_taken_for_that_beside(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, task=TASK.format("neighbour_of_both"), neighbour_of_both="")
    Named("task", f"{tmp_path}/a/task.py:Own").find()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Named("task", f"{tmp_path}/b/task.py:Own").find()
    assert str(caught.value) == (
        f"{tmp_path}/b/task.py must import neighbour_of_both from beside it; neighbour_of_both is "
        f"{tmp_path}/a/neighbour_of_both.py here, because a module has one meaning in a process. "
        "Rename neighbour_of_both.py."
    )
