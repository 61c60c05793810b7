"""Watching ALRC: the names that examples get, and what is refused."""

import importlib.util
import sys

import pytest
import torch
from torch import nn
from watching import (
    START,
)

from alrc.integrations import loggers
from alrc.integrations.loggers import Watch, read_spikes
from alrc.torch import ALRC

# Keys


@pytest.mark.parametrize(
    ("losses", "keys", "expected"),
    [
        (torch.tensor([1.0, 8.0]), torch.tensor([70, 71]), "71"),
        (torch.tensor([[1.0, 1.0], [8.0, 1.0], [1.0, 1.0]]), ("a", "b", "c"), "b"),
        (torch.tensor(8.0), ["batch 3"], "batch 3"),
        (torch.tensor([8.0]), ['two\r\nlines, "quoted"'], 'two lines, "quoted"'),
        (torch.tensor([8.0]), [("tuple", 1)], "('tuple', 1)"),
    ],
)
def test_keys_name_examples_whatever_they_are(tmp_path, losses, keys, expected) -> None:
    alrc = ALRC(**START)
    with Watch(alrc, spikes=tmp_path / "spikes.csv") as watch:
        watch.name_next(keys)
        alrc(losses)
        alrc(losses)  # not named
    assert [spike.key for spike in read_spikes(tmp_path / "spikes.csv")] == [expected, ""]


def test_too_few_keys_are_refused_in_words_and_nothing_moves(tmp_path) -> None:
    alrc = ALRC(**START)
    with Watch(alrc, spikes=tmp_path / "spikes.csv") as watch:
        watch.name_next(["a", "b", "c"])
        with pytest.raises(ValueError, match=r"^Watch: ") as error:
            alrc(torch.ones(4, 2))
        assert str(error.value) == (
            "Watch: name_next(keys) must name each example of the next call; got 3 keys for losses "
            "of shape (4, 2). Pass 4, in the order of the losses."
        )
        assert (alrc.num_losses, watch.step) == (0, 0)
        with pytest.raises(TypeError, match="ALRC: loss must be a floating tensor"):
            alrc(3.0)
        alrc(torch.ones(4, 2))
        assert watch.step == 1


# What is refused


@pytest.mark.parametrize("every", [0, -3, 2.5, "100"])
def test_an_impossible_interval_is_refused_in_words(every) -> None:
    with pytest.raises(ValueError, match=r"^Watch: ") as error:
        Watch(ALRC(num_stddev=3, scale="linear"), every=every)
    assert str(error.value) == (
        f"Watch: every must be a whole number of calls, 1 or more; got {every!r}. Pass every=100."
    )


def test_a_log_that_is_no_function_is_refused_in_words() -> None:
    with pytest.raises(TypeError) as error:
        Watch(ALRC(num_stddev=3, scale="linear"), "scalars.csv")
    assert str(error.value) == (
        "Watch: log must be a function of (scalars, step=...), or several of them in a list; got "
        "'scalars.csv'. Pass to_csv('scalars.csv'), say."
    )


def test_anything_but_the_module_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"^Watch: ") as error:
        Watch(nn.Sequential(ALRC(num_stddev=3, scale="linear")))
    assert str(error.value) == (
        "Watch: alrc must be the ALRC whose calls are to be logged; got a Sequential. Pass the "
        "ALRC itself, before torch.compile or a wrapper."
    )


def test_without_pytorch_the_module_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    spec = importlib.util.spec_from_file_location("alone", loggers.__file__)
    with pytest.raises(ModuleNotFoundError) as error:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(error.value) == (
        "alrc.integrations.loggers needs PyTorch, which is not installed here. Install it with: "
        'pip install "alrc[torch]"'
    )
