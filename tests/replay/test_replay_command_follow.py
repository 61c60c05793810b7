"""``alrc replay --follow``: a log that grows, steered step by step by a writer in its pauses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from alrc.replay.follow import REST, Growing, follow, lines, live

# A shell starts what is in its background deaf to Ctrl-C, and with it all that this starts.
HEEDED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
COMMAND = HEEDED + "from alrc.cli import main; main()"


def rows(first, end, **changed):
    """Lines of a log of steps with calm losses, but for some."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=5000)
    values = {i: 2 + 0.05 * noise[i] for i in range(first, end)}
    values |= {int(name[1:]): value for name, value in changed.items()}
    return "".join(f"step {i} loss {value:.4f}\n" for i, value in values.items())


def steered(path, *states, tell=None, clock=lambda: 0.0, column=None):
    """Follows a file through states: each is a text to write to it, or what does it.

    Returns what was told after each state, as (losses, verdict) of the last judgement.
    """
    told, (log,) = [], (Growing(str(path), column),)
    left = list(states)

    def note(logs) -> None:
        told.append([(len(curve), found.verdict.kind) for curve, found in logs[0].found])
        if tell:
            tell(logs)

    def pause(seconds) -> None:
        if not left:
            raise KeyboardInterrupt
        state = left.pop(0)
        if callable(state):
            state()
        else:
            with path.open("a") as file:
                file.write(state)

    follow([log], None, note, pause, clock)
    return told, log


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path) -> None:
    path = tmp_path / "run.log"
    told, _ = steered(path, lambda: None, rows(0, 300), lambda: None, rows(300, 310))
    assert told == [[(300, "calm")], [(310, "calm")]]


def test_a_line_counts_when_it_is_whole(tmp_path) -> None:
    path = tmp_path / "run.log"
    told, log = steered(path, rows(0, 300) + "step 300 lo", "ss 9", ".5\nstep", " 301 loss 2.0\n")
    assert [found[0][0] for found in told] == [300, 300, 301, 302]
    assert told[-1] == [(302, "isolated spikes")]
    assert log.found[0][0].losses[300] == 9.5


def test_a_file_that_is_cut_off_is_read_from_its_start(tmp_path) -> None:
    path = tmp_path / "run.log"
    told, log = steered(
        *(path, rows(0, 300, s150=9.0), lambda: path.write_text(""), rows(0, 100), rows(100, 120))
    )
    assert told == [[(300, "isolated spikes")], [(100, "calm")], [(120, "calm")]]
    assert log.found[0][0].steps[0] == 0


def test_a_file_that_is_replaced_by_a_longer_one_is_read_anew(tmp_path) -> None:
    path = tmp_path / "run.log"

    def replaced() -> None:
        other = tmp_path / "other"
        other.write_text(rows(1000, 1900))
        other.replace(path)

    told, log = steered(path, rows(0, 300), path.unlink, replaced)
    assert told == [[(300, "calm")], [(900, "calm")]]
    assert log.found[0][0].steps[0] == 1000


def test_a_log_that_has_too_few_losses_says_so_until_it_has_more(tmp_path) -> None:
    path = tmp_path / "run.log"
    said = []
    told, _ = steered(path, rows(0, 5), rows(5, 30), tell=lambda logs: said.append(logs[0].words))
    assert told == [[], [(30, "calm")]]
    assert said == [
        f"{path}: a curve must have at least 20 losses, because fewer do not say what is usual; "
        "got 5 from column 'loss'. Give a longer log.",
        "",
    ]


def test_what_is_no_log_is_not_waited_for(tmp_path) -> None:
    path = tmp_path / "run.npy"
    np.save(path, np.ones(30000))

    def more() -> None:
        raise AssertionError("it was waited for")

    told, log = steered(path, more)
    assert told == []
    assert log.words.startswith(f"{path}: a log must be ")
    assert log.words.endswith(
        "got an .npy file. Convert it: numpy.savetxt('loss.txt', numpy.load(...))."
    )


def test_only_what_is_new_is_read_and_judging_takes_a_tenth_of_the_time(tmp_path) -> None:
    """The clock is a tester's: judging takes 2 seconds, a pause 1."""
    path = tmp_path / "run.log"
    now, looks = [0.0], []

    def clock() -> float:
        return now[0]

    def passing(text):
        def state() -> None:
            now[0] += 1
            looks.append(now[0])
            with path.open("a") as file:
                file.write(text)

        return state

    judged = []

    def tell(logs) -> None:
        now[0] += 2
        judged.append((now[0], len(logs[0].found[0][0])))

    states = [passing(rows(i, i + 50)) for i in range(0, 2500, 50)]
    steered(path, *states, tell=tell, clock=clock)
    times = [time for time, _ in judged]
    assert np.diff(times).min() >= 2 * REST
    assert len(judged) >= 3
    # Nothing is skipped: each judgement has all rows of the looks before it.
    assert [size for _, size in judged] == [50 * sum(t < time for t in looks) for time in times]


def test_nothing_is_read_twice(tmp_path, monkeypatch) -> None:
    fed = []
    path = tmp_path / "run.log"
    log = Growing(str(path), None)
    path.write_text(rows(0, 300))
    feed = log._reader.feed
    monkeypatch.setattr(log._reader, "feed", lambda piece: (fed.append(len(piece)), feed(piece)))
    assert log.look()
    with path.open("a") as file:
        file.write(rows(300, 302))
    assert log.look()
    assert not log.look()
    assert fed == [len(rows(0, 300)), len(rows(300, 302))]


def test_a_pipe_gets_a_line_when_the_verdict_changes_and_no_other(tmp_path, capsys) -> None:
    path = tmp_path / "run.log"
    steered(
        path,
        *(rows(0, 300), rows(300, 400), rows(400, 450, s420=9.0), rows(450, 500)),
        *(rows(500, 550, s520=8.0), rows(550, 600)),
        tell=lines(False, named=False),
    )
    told = [
        line.partition(";")[0].partition(" stands")[0]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert told == [
        "300 losses: calm: none of 300 losses",
        "450 losses: isolated spikes: 1, at step 420",
        "550 losses: isolated spikes: 2, at steps 420 and 520",
    ]


def test_json_comes_in_lines(tmp_path, capsys) -> None:
    path = tmp_path / "run.log"
    steered(path, rows(0, 300), rows(300, 400, s350=9.0), tell=lines(True, named=False))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["verdict"]["kind"] for one in told] == ["calm", "isolated spikes"]
    assert [one["values"] for one in told] == [300, 400]


def test_a_terminal_shows_all_of_the_last_state(tmp_path) -> None:
    path = tmp_path / "run.log"
    path.write_text(rows(0, 300, s150=9.0))
    with (tmp_path / "screen").open("w") as screen:
        console = Console(file=screen, width=80, height=20, force_terminal=True)

        def run(logs, settings, tell) -> None:
            def pause(seconds) -> None:
                raise KeyboardInterrupt

            follow(logs, settings, tell, pause, lambda: 0.0)

        live([Growing(str(path), None)], None, console, run)
    shown = (tmp_path / "screen").read_text()
    assert "Following; Ctrl-C ends it." in shown
    last = shown[shown.rindex("isolated spikes: 1, at step 150") :]
    assert "To paste: alrc = ALRC()" in last
    assert "Following" not in last


@pytest.fixture
def started():
    """Starts the command; what is left of it is ended."""
    processes = []

    def start(*words, **pipes) -> subprocess.Popen:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", COMMAND, "replay", "--follow", *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
                **pipes,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_command_follows_a_file_until_it_is_interrupted(tmp_path: Path, started) -> None:
    path = tmp_path / "run.log"
    path.write_text(rows(0, 300))
    process = started(path)
    assert process.stdout.readline().startswith("300 losses: calm: none of 300 losses stands out.")
    with path.open("a") as file:
        file.write(rows(300, 400, s350=9.0))
    assert process.stdout.readline().startswith("400 losses: isolated spikes: 1, at step 350; ")
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_the_command_follows_standard_input_to_its_end(started) -> None:
    process = started("-", stdin=subprocess.PIPE)
    process.stdin.write(rows(0, 300))
    process.stdin.flush()
    assert process.stdout.readline().startswith("300 losses: calm: ")
    out, err = process.communicate(rows(300, 400, s350=9.0) + "step 400 loss 2.0")
    assert out.startswith(("400 losses: isolated spikes: 1, ", "401 losses: isolated spikes: 1, "))
    assert (err, process.returncode) == ("", 0)


def test_a_folder_and_an_input_of_too_few_losses_are_refused(tmp_path, started) -> None:
    process = started(tmp_path)
    assert process.communicate() == (
        "",
        f"alrc: --follow must be of files, because a folder does not grow; got {tmp_path}. Name "
        "the file in it that does.\n",
    )
    assert process.returncode == 2
    process = started("-", stdin=subprocess.PIPE)
    assert process.communicate(rows(0, 3)) == (
        "",
        "alrc: standard input: a curve must have at least 20 losses, because fewer do not say what "
        "is usual; got 3 from column 'loss'. Give a longer log.\n",
    )
    assert process.returncode == 2
