"""The language task: its text, its garbage, its losses, and that its network can't look ahead."""

import math
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from together import assert_together_is_alone
from torch import Tensor

from alrc.lab.api import Training
from alrc.lab.engine.checks import check_task
from alrc.lab.tasks.language import ALPHABET, GPT, Language, characters, read_texts

TINY = "language width=8 heads=2 layers=1 context=8 garbage=0.3"


def sequences(garbage: float, steps: int = 200, start: int = 0, seed: int = 3) -> Tensor:
    """Those of some steps, ``(steps, 16, 33)``."""
    batches = Language(garbage=garbage).batches(seed, 16, start)
    return torch.stack(list(islice(batches, steps)))


def spelled(sequence: Tensor) -> str:
    return "".join(ALPHABET[i] for i in sequence.tolist())


def test_the_task_keeps_what_is_asked_of_it() -> None:
    check_task(TINY, steps=10)


def test_runs_together_have_the_losses_of_runs_alone(tmp_path: Path) -> None:
    assert_together_is_alone(TINY, tmp_path)


def test_characters_are_their_places_in_the_alphabet() -> None:
    assert spelled(torch.from_numpy(characters(ALPHABET))) == ALPHABET
    assert len(ALPHABET) == len(set(ALPHABET)) == 96


def test_clean_sequences_are_of_the_training_text() -> None:
    training, _ = read_texts()
    assert len(training) > 300_000
    assert all(spelled(sequence) in training for sequence in sequences(0.0, 20).flatten(0, 1))


def test_held_out_windows_are_clean_and_none_of_them_is_in_the_training_text() -> None:
    training, held_out = read_texts()
    assert set(training.split("\n\n")).isdisjoint(held_out.split("\n\n"))
    windows = Language(garbage=1.0).windows()
    assert windows.shape == (96, 33)
    assert torch.equal(windows, Language().windows())
    texts = [spelled(window) for window in windows]
    assert all(text in held_out and text not in training for text in texts)
    assert len(set(texts)) == 96
    gaps = np.diff([0, *sorted(held_out.index(text) for text in texts), len(held_out)])
    assert gaps.max() < 0.03 * len(held_out)  # spread over all of it


def test_short_windows_are_held_out_too() -> None:
    _, held_out = read_texts()
    windows = Language(context=4).windows()
    assert windows.shape == (96, 5)
    assert all(spelled(window) in held_out for window in windows)


def test_the_share_of_garbage_is_what_is_asked_for_and_the_rest_stays_as_it_was() -> None:
    clean, dirty = sequences(0.0), sequences(0.1)
    is_garbage = (clean != dirty).any(2)
    assert is_garbage.float().mean() == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 3200))
    garbage = dirty[is_garbage]
    # Each character as often as another, and none that stays by more than chance.
    counts = torch.bincount(garbage.flatten(), minlength=96).float()
    assert ((counts - counts.mean()).abs() < 5 * counts.mean().sqrt()).all()
    assert (garbage == clean[is_garbage]).float().mean() < 0.02
    assert len(torch.unique(garbage, dim=0)) == len(garbage)


def test_garbage_does_not_depend_on_the_start_but_on_the_seed() -> None:
    assert torch.equal(sequences(0.5, 10)[6:], sequences(0.5, 4, start=6))
    assert not torch.equal(sequences(0.5, 4, seed=3), sequences(0.5, 4, seed=4))
    assert (sequences(1.0, 2) != sequences(0.0, 2)).any(2).all()


def losses_by_hand(scores: Any, targets: Any) -> Any:
    """The cross-entropy of each character, from its definition, in float64."""
    scores = scores.detach().numpy().astype(np.float64)
    chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(chances, targets.numpy()[..., None], -1)[..., 0])


def test_a_loss_is_the_mean_cross_entropy_of_a_sequence() -> None:
    task = Language()
    networks = task.build(0)
    batch = sequences(0.2, 1)[0]
    losses = task.step(networks, batch)["loss"]
    want = losses_by_hand(networks["gpt"](batch[:, :-1]), batch[:, 1:]).mean(1)
    assert losses.shape == (16,)
    np.testing.assert_allclose(losses.detach().numpy(), want, rtol=1e-5)


def test_metrics_are_means_over_the_held_out_windows() -> None:
    task = Language()
    networks = task.build(0)
    windows = task.windows()
    scores = networks["gpt"](windows[:, :-1])
    with torch.no_grad():
        metrics = task.evaluate(networks)
    right = scores.argmax(-1).numpy() == windows[:, 1:].numpy()
    assert metrics["held-out log-loss"] == pytest.approx(
        losses_by_hand(scores, windows[:, 1:]).mean(), rel=1e-5
    )
    assert metrics["held-out accuracy"] == pytest.approx(right.mean())


def test_a_prediction_depends_on_each_character_up_to_it_and_on_none_after_it() -> None:
    torch.manual_seed(0)
    network = GPT(width=16, layers=2, heads=2, context=12).double()
    x = torch.randint(96, (1, 12))
    before = network(x)
    for place in range(12):
        changed = x.clone()
        changed[0, place] = (changed[0, place] + 1) % 96
        differs = (network(changed) != before).any(2)[0]
        assert not differs[:place].any()
        assert differs[place:].all()


def test_attention_is_a_mean_of_earlier_values_by_its_definition() -> None:
    torch.manual_seed(0)
    block = GPT(width=4, layers=1, heads=2, context=5).blocks[0]
    x = torch.randn(1, 5, 12)
    q, k, v = x[0].numpy().astype(np.float64).reshape(5, 3, 2, 2).transpose(1, 2, 0, 3)
    want = np.zeros((5, 2, 2))
    for head in range(2):
        for i in range(5):
            shares = np.exp(k[head, : i + 1] @ q[head, i] / np.sqrt(2))
            want[i, head] = shares @ v[head, : i + 1] / shares.sum()
    np.testing.assert_allclose(block.attention(x)[0].numpy(), want.reshape(5, 4), rtol=1e-5)


def test_the_learning_rate_rises_for_a_twentieth_of_the_steps_and_falls_to_a_tenth() -> None:
    task = Language(width=8)
    training = Training(**{**task.defaults, "steps": 100, "learning_rate": 1.0})
    optimizers = task.optimizers(task.build(0), training)
    schedule = task.schedules(optimizers, training)["step"]
    rates = []
    for _ in range(100):
        rates += schedule.get_last_lr()
        optimizers["step"].step()
        schedule.step()
    np.testing.assert_allclose(rates[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert (np.diff(rates[5:]) < 0).all()
    assert rates[52] == pytest.approx(0.55, abs=0.01)
    assert rates[-1] == pytest.approx(0.1, abs=0.001)


def test_the_text_is_part_of_what_fixes_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Language().describe()
    assert facts["characters"] == sum(map(len, read_texts())) + 2
    monkeypatch.setattr("alrc.lab.tasks.language.read_texts", lambda: ("other", "text"))
    assert Language().describe()["sha256"] != facts["sha256"]


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    words = (
        "Language: width must be a multiple of heads, because each has an equal part of it; got "
        "width=10, heads=4. Use width=12."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        Language(width=10, heads=4)
