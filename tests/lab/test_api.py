"""Options are checked when they are made, and an arm's state is all that is not an option."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import torch
from torch import nn

from alrc.lab.api import Arm, Ge, Options, Task, Training


@dataclass(frozen=True)
class Several(Options):
    count: Annotated[int, Ge(1), "How many."] = 1
    share: float = 0.5
    kind: Literal["one", "two"] = "one"
    name: str | None = None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count must be greater than or equal to 1; got 0."),
        ({"count": True}, "count must be a valid integer; got True."),
        ({"count": 1.0}, "count must be a valid integer; got 1.0."),
        ({"share": "0.5"}, "share must be a valid number; got '0.5'."),
        ({"kind": "three"}, "kind must be 'one' or 'two'; got 'three'."),
        ({"name": 3}, "name must be a valid string; got 3."),
    ],
)
def test_a_value_of_another_type_or_out_of_bounds_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r"^Several: ") as refusal:
        Several(**given)
    assert str(refusal.value) == f"Several: {message}"


def test_whole_numbers_become_floats_where_these_are_asked_for() -> None:
    assert type(Several(share=1).share) is float
    assert Several().options() == {"count": 1, "share": 0.5, "kind": "one", "name": None}
    assert Several.helps() == {"count": "How many.", "share": "", "kind": "", "name": ""}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 9}, "steps must be greater than or equal to 10"),
        ({"batch_size": 0}, "batch_size must be greater than or equal to 1"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"learning_rate": math.inf}, "learning_rate must be less than inf"),
        ({"learning_rate": math.nan}, "learning_rate must be less than inf"),
        ({"optimizer": "lion"}, "optimizer must be 'adam', 'adamw' or 'sgd'"),
        ({"evaluate_every": 0}, "evaluate_every must be greater than or equal to 1"),
    ],
)
def test_training_out_of_range_is_refused(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=f"^Training: {words}; got "):
        Training(**{"steps": 10, **given})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, torch.optim.Adam),
        ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW),
        ({"optimizer": "sgd", "momentum": 0.9}, torch.optim.SGD),
    ],
)
def test_an_optimizer_is_pytorchs_with_the_options_given(given: dict, expected: type) -> None:
    made = Training(10, learning_rate=0.25, **given).make_optimizer([nn.Parameter(torch.ones(1))])
    assert type(made) is expected
    plain = expected([nn.Parameter(torch.ones(1))], 0.25).defaults
    changed = {k: v for k, v in made.defaults.items() if plain[k] != v and k != "fused"}
    assert changed == {k: v for k, v in given.items() if k != "optimizer"}


def test_what_a_phase_minimises_is_the_sum_of_the_means() -> None:
    losses = {"one": torch.tensor([1.0, 3.0]), "two": torch.tensor(5.0)}
    assert Task().combine("step", losses).item() == 7


@dataclass
class Counting(Arm):
    limit_at: float = 2.0

    def begin(self, device: torch.device) -> None:
        self.count, self.recent, self.scale = 0, [1.0], nn.Linear(1, 1)


def test_the_state_of_an_arm_is_all_that_is_not_an_option() -> None:
    first, second = Counting(3.0), Counting(3.0)
    for arm in (first, second):
        arm.begin(torch.device("cpu"))
    first.count, first.recent, first.step_ok = 7, [2.0, 3.0], False
    state = first.state_dict()
    assert set(state) == {"count", "recent", "scale", "step_ok"}
    second.load_state_dict(state)
    assert (second.count, second.recent, second.step_ok) == (7, [2.0, 3.0], False)
    assert torch.equal(second.scale.weight, first.scale.weight)
    assert second.options() == {"limit_at": 3.0}
