"""Ten scans of a real microscope, which lie only beside the project."""

from pathlib import Path

import pytest

PLACES = [
    above / "shared/data/stem" for above in Path(__file__).parents[3:5]
]  # or of its worktrees
REAL_SCANS = next((place for place in PLACES if place.is_dir()), PLACES[0])

needs_real_scans = pytest.mark.skipif(
    not REAL_SCANS.is_dir(), reason="the real scans lie only beside the project"
)
