"""Reads loss curves and says what a limit would have done to them."""

from alrc.replay.replay import Outcome, Replay, replay
from alrc.replay.verdict import Finding, Verdict

__all__ = ["Finding", "Outcome", "Replay", "Verdict", "replay"]
