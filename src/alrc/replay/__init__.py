"""Reads loss curves and says what a limit would have done to them."""

from alrc.replay.curve import Curve
from alrc.replay.logs import LogRefused, read_log, read_logs
from alrc.replay.outcomes import Outcome
from alrc.replay.replay import Replay, replay
from alrc.replay.verdict import Verdict
from alrc.replay.wording import Finding

__all__ = [
    "Curve",
    "Finding",
    "LogRefused",
    "Outcome",
    "Replay",
    "Verdict",
    "read_log",
    "read_logs",
    "replay",
]
