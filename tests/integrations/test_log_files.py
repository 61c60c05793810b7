"""The logs as files: whole whenever a program ends, and read as they were written."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from watching import (
    START,
    STEPS,
    Net,
    rows,
    train,
)

from alrc.integrations.loggers import Watch, read_spikes, to_csv
from alrc.torch import ALRC

# Files


def test_a_resumed_run_leaves_the_files_of_an_uninterrupted_one(tmp_path) -> None:
    def run(folder, steps, net, alrc):
        logs = to_csv(folder / "scalars.csv")
        watch = Watch(alrc, logs, every=5, spikes=folder / "spikes.csv", step=steps[0])
        with watch:
            train(alrc, watch, steps, net)

    settings = {"decay": 0.98, "num_stddev": 2.0, "scale": "linear"}
    run(tmp_path / "whole", range(STEPS), Net(), ALRC(**settings))

    net, alrc = Net(), ALRC(**settings)
    run(tmp_path / "parts", range(30), net, alrc)
    saved = copy.deepcopy((net, alrc))
    run(tmp_path / "parts", range(30, 48), net, alrc)  # dies in step 48, after its checkpoint at 30
    for name in ("spikes.csv", "scalars.csv"):
        with (tmp_path / "parts" / name).open("ab") as file:
            file.write("12,0,3,caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()[:-1])
    run(tmp_path / "parts", range(30, STEPS), *saved)

    for name in ("spikes.csv", "scalars.csv"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "parts" / name).read_bytes() == whole
        assert whole.count(b"\n") > 10
    assert len(list((tmp_path / "parts").iterdir())) == 3


def test_every_row_is_in_the_csv_file_as_soon_as_it_is_logged(tmp_path) -> None:
    log = to_csv(tmp_path / "new folder" / "log.csv")
    for step in (5, 10, 15):
        log({"a": step / 4, "b": math.inf}, step=step)
        expected = [{"step": str(s), "a": str(s / 4), "b": "inf"} for s in range(5, step + 1, 5)]
        assert rows(tmp_path / "new folder" / "log.csv") == expected


def test_a_file_with_other_columns_is_refused_in_words_and_left_alone(tmp_path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,a,b\n5,1.0,2.0\n")
    log = to_csv(path)
    with pytest.raises(ValueError, match=r"^to_csv: ") as error:
        log({"alrc/loss": 0.5}, step=10)
    assert str(error.value) == (
        f"to_csv: {path} must have the columns step, alrc/loss; it has step, a, b. Pass another "
        "path."
    )
    log({"a": 3.0, "b": 4.0}, step=10)
    with pytest.raises(ValueError, match="must have the columns step, a, c; it has step, a, b"):
        log({"a": 3.0, "c": 4.0}, step=15)
    alrc = ALRC(num_stddev=3, scale="linear")
    watch = Watch(alrc, spikes=path, every=1)
    with pytest.raises(ValueError, match=r"^Watch: .* must have the columns step, rank, index, "):
        alrc(torch.tensor(1.0))
    watch.close()
    with pytest.raises(ValueError, match=r"^read_spikes: .* must have the columns step, rank, "):
        read_spikes(path)
    assert path.read_text() == "step,a,b\n5,1.0,2.0\n10,3.0,4.0\n"


def test_a_spike_log_is_read_while_it_is_written_and_empty_without_spikes(tmp_path) -> None:
    alrc, path = ALRC(**START), tmp_path / "spikes.csv"
    with Watch(alrc, spikes=path, every=1):
        alrc(torch.tensor(1.0))
        assert read_spikes(path) == []
        alrc(torch.tensor(8.0))
        with path.open("a") as file:
            file.write("2,0,0,")
        assert [spike.step for spike in read_spikes(path)] == [1]
    path.write_text("step,ra")
    assert read_spikes(path) == []


def test_files_of_other_ranks_are_found_and_no_others(tmp_path) -> None:
    head = "step,rank,index,key,group,loss,limit,factor\n"
    (tmp_path / "s[1].csv").write_text(head + "3,0,0,,,8.0,4.0,0.5\n")
    (tmp_path / "s[1]-rank10.csv").write_text(head + "2,10,0,x,1,8.0,4.0,0.5\n")
    (tmp_path / "s[1]-rank1.csv").write_text(head + "3,1,0,,,8.0,4.0,0.5\n")
    for name in ("s[1]-ranks.csv", "s[1]-rank1.txt", "t-rank1.csv", "1.csv"):
        (tmp_path / name).write_text("other\n")
    spikes = read_spikes(tmp_path / "s[1].csv")
    assert [(s.step, s.rank, s.key, s.group) for s in spikes] == [
        (2, 10, "x", 1),
        (3, 0, "", None),
        (3, 1, "", None),
    ]


def test_a_spike_log_is_read_where_there_is_no_pytorch(tmp_path) -> None:
    alrc = ALRC(**START)
    with Watch(alrc, spikes=tmp_path / "spikes.csv"):
        alrc(torch.tensor(8.0))
    code = f"""import sys
sys.modules["torch"] = None
from alrc.integrations.spikes import read_spikes
print(read_spikes({str(tmp_path / "spikes.csv")!r})[0].limit)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("4.0\n", "")


def test_no_spike_log_is_an_error_in_words(tmp_path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read_spikes(tmp_path / "typo.csv")
    assert str(error.value) == (
        f"read_spikes: there must be a spike log; got {tmp_path / 'typo.csv'}, which does not "
        "exist. Pass what Watch was given as spikes."
    )
