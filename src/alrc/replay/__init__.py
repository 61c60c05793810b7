"""Reads loss curves and says what a limit would have done to them."""

from alrc.replay.outcomes import Outcome
from alrc.replay.replay import Replay, replay
from alrc.replay.verdict import Verdict
from alrc.replay.wording import Finding

__all__ = ["Finding", "Outcome", "Replay", "Verdict", "replay"]
