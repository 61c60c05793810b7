"""Whether the task keeps what the lab asks of it; run with: pytest test_task.py"""

from pathlib import Path

from alrc.lab.engine.checks import check_task


def test_the_task_keeps_what_is_asked_of_it() -> None:
    check_task(f"{Path(__file__).parent}/task.py:Example")
