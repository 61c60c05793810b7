"""``alrc lab new-task``: a task of one's own to start from."""

from pathlib import Path
from typing import Annotated

import typer

from alrc.lab.cli.options import fail

__all__ = ["new_task"]

TEMPLATES = Path(__file__).parents[1] / "templates"
FILES = ("task.py", "test_task.py", "study.toml")


def new_task(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to write to; made if it is not there.")
    ],
) -> None:
    """Write a task of your own to start from: task.py, its test, and a study of it."""
    from alrc.lab.engine.files import written_whole

    try:
        if there := [name for name in FILES if (folder / name).exists()]:
            raise ValueError(
                f"{folder} must not hold {there[0]} yet, because it would be overwritten; pass "
                "another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with written_whole(folder / name) as part:
                part.write_bytes((TEMPLATES / name).read_bytes())
            typer.echo(folder / name)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    typer.echo(f"Train it with: alrc lab study {folder / 'study.toml'}")
