"""Runs are known by the files of a task or an arm of one's own, and by what these import."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny

from alrc.lab.engine.naming import Named
from alrc.lab.engine.sources import sha256, sources_of
from alrc.lab.engine.spec import Spec

ARM = """
from dataclasses import dataclass
from alrc.lab.api import Arm
{imports}
@dataclass
class Own(Arm):
    pass
"""


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def sources(arm: Path) -> dict[str, str]:
    like = tiny.spec()
    spec = Spec(Named("task", "supersampling"), Named("arm", f"{arm}:Own"), like.training, 0)
    return spec.config["sources"]


def test_what_is_imported_from_beside_it_belongs_to_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "own.py": "import json, first_helper as f\nimport package_of_it.inner",
            "first_helper.py": "def later():\n    from second_helper import *",
            "second_helper.py": "import own",
            "package_of_it/__init__.py": "from . import third\nfrom .deep.er import x",
            "package_of_it/inner.py": "from .. import nothing",
            "package_of_it/third.py": "(",
            "package_of_it/deep/er.py": "from ..third import y",
            "not_imported.py": "",
            "json.txt": "",
        },
    )
    assert sorted(
        str(p.relative_to(tmp_path)) for p in sources_of(tmp_path / "own.py").values()
    ) == [
        "first_helper.py",
        "own.py",
        "package_of_it/__init__.py",
        "package_of_it/deep/er.py",
        "package_of_it/inner.py",
        "package_of_it/third.py",
        "second_helper.py",
    ]


def test_a_helper_that_was_changed_makes_another_run(tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        helper = f"helper_of_{number}"  # a process imports each name once
        write(folder, {"own.py": ARM.format(imports=f"import {helper}"), f"{helper}.py": "X = 1"})
        found.append(sources(folder / "own.py"))
        assert found[-1] == {
            "own.py": sha256(folder / "own.py"),
            f"{helper}.py": sha256(folder / f"{helper}.py"),
        }
    assert found[0]["own.py"] != found[1]["own.py"]


def test_two_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    task = tmp_path / "tiny.py"
    task.write_text(Path(tiny.__file__).read_text() + ARM.format(imports=""))
    like = tiny.spec()
    spec = Spec(like.task, Named("arm", f"{task}:Own"), like.training, 0)
    assert spec.config["sources"] == {
        "tiny.py": sha256(Path(tiny.__file__)),
        "tiny.py'": sha256(task),
    }


def test_a_helper_whose_name_is_taken_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    write(tmp_path, {"own.py": ARM.format(imports="import statistics"), "statistics.py": ""})
    import statistics

    with pytest.raises(ValueError, match="beside") as caught:
        sources(file)
    assert str(caught.value) == (
        f"{file} must get statistics from the file beside it, because that is what its runs "
        f"are known by; Python has it from {statistics.__file__}. Rename that file."
    )
