"""Ten scans of a real microscope, which lie only beside the project."""

from pathlib import Path

import pytest

REAL_SCANS = Path(__file__).parents[3] / "shared/data/stem"

needs_real_scans = pytest.mark.skipif(
    not REAL_SCANS.is_dir(), reason="the real scans lie only beside the project"
)
