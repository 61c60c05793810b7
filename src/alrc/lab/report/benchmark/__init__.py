"""What a benchmark of many arms on many workloads says, from its compact results alone."""

from alrc.lab.report.benchmark.page import draw_benchmark

__all__ = ["draw_benchmark"]
