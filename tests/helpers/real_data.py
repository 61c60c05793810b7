"""Scans of a real microscope and logs of real trainings, which lie only beside the project."""

from pathlib import Path

import pytest


def place(kind: str) -> Path:
    """Beside the repository, or beside the folder of its worktrees."""
    places = [above / "shared/data" / kind for above in Path(__file__).parents[3:5]]
    return next((folder for folder in places if folder.is_dir()), places[0])


REAL_SCANS, REAL_LOGS = place("stem"), place("logs")

needs_real_scans = pytest.mark.skipif(
    not REAL_SCANS.is_dir(), reason="the real scans lie only beside the project"
)
needs_real_logs = pytest.mark.skipif(
    not REAL_LOGS.is_dir(), reason="the real logs lie only beside the project"
)
