"""Reads loss curves from what training programs write, and refuses what is none."""

from alrc.replay.logs.files import read_log, read_logs
from alrc.replay.logs.refusals import LogRefused
from alrc.replay.logs.stream import LogReader

__all__ = ["LogReader", "LogRefused", "read_log", "read_logs"]
