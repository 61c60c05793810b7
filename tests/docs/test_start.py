"""docs/start.md: its table is what benchmarks/start.py makes."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/start.md").read_text()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("start", ROOT / "benchmarks/start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_page_is_what_the_script_makes(script) -> None:
    assert "\n".join(script.made()) in PAGE


def test_the_script_reads_a_log_of_ones_own(script, tmp_path, capsys, monkeypatch) -> None:
    losses = np.random.default_rng(0).lognormal(0.0, 0.3, 600)
    losses[300] = 100.0
    lines = [f"step {i} | loss: {loss:.4f} | lr 0.1" for i, loss in enumerate(losses)]
    log = tmp_path / "train.log"
    log.write_text("\n".join(["begins", *lines, "step 600 | loss: nan"]))
    monkeypatch.setattr(sys, "argv", ["start.py", str(log), r"loss: (\S+)"])
    script.main()
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| `scale` | `recency` | at 500 | losses limited |"
    assert [row.split("|")[1:3] for row in rows] == [
        [f' `"{s.scale}"` ', f" {s.recency:g} "] for s in script.SETTINGS
    ]
    for row in rows:
        ratio, limited = row.split("|")[3:5]
        assert 1.5 < float(ratio) < 3
        assert int(limited.split(" of ")[0]) >= 1
        assert limited.endswith("of 600 ")
