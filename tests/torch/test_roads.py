"""State on other roads than checkpoints, settings that are set later, and odd surroundings."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

from alrc.torch import ALRC, clip, init

START = {"num_stddev": 3, "scale": "linear", "mu1_start": 1.0, "mu2_start": 2.0}  # limit 4
UNSET = "ALRC: its state must be one that training has left, or fresh; got memory that nothing"


def trained() -> ALRC:
    alrc = ALRC(**START)
    for loss in (1.0, 9.0, 2.0):
        alrc(torch.tensor(loss))
    return alrc


GARBAGE = {
    "nan": {"mean": math.nan},
    "infinite variance": {"variance": math.inf},
    "negative variance": {"variance": -1.0},
    "negative count": {"num_losses": -1},
    "more limited than there were": {"num_clipped": 4},
    # As memory is that was freed: an address, and two halves of another.
    "addresses": {"num_updates": 140_123_456_789_012, "mean": 7e-8, "variance": 3e-41},
    "all zero": dict.fromkeys(ALRC(num_stddev=3, scale="linear").state_dict(), 0),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_memory_that_nothing_has_set_is_told_once_and_training_starts_afresh(case) -> None:
    alrc, fresh = trained(), ALRC(**START)
    for name, number in GARBAGE[case].items():  # as from_pretrained() sets what it has not found
        setattr(alrc, name, torch.full_like(alrc._buffers[name], number))
    if case != "all zero":
        alrc.mean = alrc.mean.clone()
    with pytest.warns(UserWarning, match=UNSET) as record:
        assert alrc(torch.tensor([8.0, 1.0])).tolist() == fresh(torch.tensor([8.0, 1.0])).tolist()
    assert len(record) == 1
    assert alrc.to_dict() == fresh.to_dict()
    alrc(torch.tensor(1.0))  # says nothing more


def test_moments_that_were_overwritten_beneath_a_module_in_use_are_noticed() -> None:
    alrc, fresh = trained(), ALRC(**START)
    alrc._buffers["variance"].data.fill_(-1.0)
    with pytest.warns(UserWarning, match=UNSET):
        assert alrc(torch.tensor(8.0)) == fresh(torch.tensor(8.0))
    assert alrc.to_dict() == fresh.to_dict()


def test_copies_and_pickles_of_a_state_of_zeros_go_on_from_it() -> None:
    alrc = ALRC(**START)
    alrc.load_dict({"mean": 0.0, "variance": 0.0, "num_updates": 0})
    for copied in (copy.deepcopy(alrc), copy.copy(alrc), pickle.loads(pickle.dumps(alrc))):
        copied(torch.tensor(2.0))
        assert copied.num_updates == 1
        assert copied.mean.item() == pytest.approx(0.002)
        alrc.load_dict({"mean": 0.0, "variance": 0.0, "num_updates": 0})  # a shallow copy shares it


def test_to_empty_without_reset_parameters_starts_afresh() -> None:
    torch.use_deterministic_algorithms(True)  # what fills empty memory with NaN
    try:
        alrc = ALRC(**START, device="meta").to_empty(device="cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    with pytest.warns(UserWarning, match=UNSET):
        assert alrc(torch.tensor(8.0)) == 4.0


def test_of_a_fresh_state_that_starts_by_itself_nothing_is_said() -> None:
    alrc = ALRC(num_stddev=3, scale="linear")
    for name in alrc.state_dict():
        setattr(alrc, name, torch.zeros_like(alrc._buffers[name]))
    alrc(torch.tensor(2.0))
    assert (alrc.mean, alrc.num_updates) == (2.0, 1)


def test_each_group_is_looked_at_by_itself() -> None:
    alrc = ALRC(**START, num_groups=2)
    alrc(torch.tensor([2.0, 3.0]), group=torch.tensor([0, 1]))
    sound = alrc.mean[1].item()
    alrc.mean = torch.tensor([math.nan, sound])
    with pytest.warns(UserWarning, match="mean \\[nan, "):
        alrc(torch.tensor(2.0), group=0)
    assert alrc.mean.tolist() == [pytest.approx(1.001), sound]
    assert alrc.num_losses.tolist() == [1, 1]


@pytest.mark.parametrize("path", ["host", "tensor"])
def test_a_sound_state_is_taken_as_it_is_on_whatever_road(path) -> None:
    alrc = trained()
    before = alrc.to_dict()
    for name in before:
        setattr(alrc, name, getattr(alrc, name).clone())
    expected = copy.deepcopy(alrc)
    mask = None if path == "host" else torch.ones(2)
    assert alrc(torch.tensor([3.0, 1.0]), mask).tolist() == [3.0, 1.0]
    expected(torch.tensor([3.0, 1.0]), mask)
    assert alrc.to_dict() == expected.to_dict()


def test_moments_cast_by_other_means_go_on_in_float32_and_say_so_once() -> None:
    alrc = ALRC(decay=0.999, **START)
    for buffer in alrc.buffers():
        buffer.data = buffer.data.bfloat16()
    with pytest.warns(UserWarning, match="its moments must be float32") as record:
        alrc(torch.tensor(2.0))
    assert len(record) == 1
    for _ in range(999):
        alrc(torch.tensor(2.0))
    assert [x.dtype for x in alrc.buffers()] == [torch.float32] * 2 + [torch.int64] * 4
    assert alrc.mean.item() == pytest.approx(2 - 0.999**1000, rel=1e-4)  # bfloat16 stands still
    assert alrc.num_updates == 1000


def test_fsdp_with_buffers_in_bfloat16_leaves_the_moments_in_float32(process_group) -> None:
    policy = MixedPrecision(buffer_dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="FSDP"):
        model = FullyShardedDataParallel(
            nn.Sequential(nn.Linear(1, 1), ALRC(**START)),
            device_id=torch.device("cpu"),
            mixed_precision=policy,
        )
    with pytest.warns(UserWarning, match="its moments must be float32"):
        model(torch.ones(4, 1))
    assert model.module[1].mean.dtype == torch.float32
    assert model.module[1].num_updates == 1


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "name", ["num_stddev", "decay", "warmup", "recency", "center", "scale", "num_groups"]
)
def test_a_setting_cannot_be_changed_and_the_error_says_what_to_do(name) -> None:
    alrc = trained()
    with pytest.raises(AttributeError) as error:
        setattr(alrc, name, 5)
    state = ", and hand it the state: new.load_dict(old.to_dict())" * (
        name not in ("num_groups", "scale")
    )
    assert str(error.value) == (
        f"ALRC: {name} is fixed when it is built, because every call relies on it; got {name} = 5. "
        f"Build another with the settings that you want{state}."
    )
    new = ALRC(**{**START, "num_stddev": 5})
    new.load_dict(alrc.to_dict())
    assert new.threshold == pytest.approx(alrc.mean.item() + 5 * alrc.variance.sqrt().item())


def test_under_func_grad_the_error_names_the_pure_functions() -> None:
    alrc = ALRC(**START)
    with pytest.raises(RuntimeError, match="ALRC: its moments must move in place") as error:
        torch.func.grad(lambda x: alrc(x))(torch.tensor(8.0))
    assert "loss, moments = alrc.torch.clip(loss, moments, settings)." in str(error.value)


def test_an_error_of_another_kind_is_left_as_it_is(monkeypatch) -> None:
    alrc = ALRC(**START)

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.Tensor, "fill_", broken)
    with pytest.raises(RuntimeError, match="CUDA error: an illegal"):
        alrc(torch.tensor(2.0))


def test_groups_of_a_batch_under_vmap_are_those_of_each_example() -> None:
    settings = ALRC(**START, num_groups=3).settings
    losses, groups = torch.tensor([[20.0, 0.5], [3.0, 9.0]]), torch.tensor([[1, 0], [2, 5]])
    call = torch.vmap(lambda x, g: clip(x, init(settings), settings, group=g))
    limited, moments = call(losses, groups)
    assert limited.tolist() == [[4.0, 0.5], [3.0, 9.0]]  # 5 is no group: not limited
    assert moments.num_updates.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_vmap_over_losses_that_share_one_module_names_the_pure_functions() -> None:
    alrc = ALRC(**START)
    with pytest.raises(RuntimeError, match=r"alrc\.torch\.clip\(loss, moments, settings\)"):
        torch.vmap(alrc)(torch.tensor([8.0, 1.0]))


@pytest.mark.parametrize("wrong", [None, {"mean": 1.0}, (1.0, 1.0, 3), torch.ones(3)])
def test_clip_refuses_what_are_no_moments_in_words(wrong) -> None:
    settings = ALRC(**START).settings
    with pytest.raises(TypeError) as error:
        clip(torch.tensor(8.0), wrong, settings)
    assert str(error.value) == (
        f"clip: moments must be Moments of tensors, which init() makes; got {wrong!r}. Pass what "
        "init() or the call before returned; of numbers by name, init(settings, saved=numbers)."
    )


def test_clip_refuses_moments_that_could_not_move() -> None:
    settings = ALRC(**START).settings
    moments = init(settings)
    with pytest.raises(TypeError) as error:
        clip(torch.tensor(8.0), moments._replace(variance=moments.variance.bfloat16()), settings)
    assert str(error.value) == (
        "clip: moments must be float32 at least, in which they can move; got a variance in "
        "torch.bfloat16. Keep them out of casts, or pass init(settings, saved=moments.to_dict())."
    )


@pytest.mark.parametrize(
    "losses",
    [[0.5, -8.0, 9.0], [0.0, 0.5, 9.0], [-0.0, 0.0], [0.0, 3.0], [-3.0, 0.0, -20.0]],
)
@pytest.mark.parametrize("start", [(1.0, 2.0), (-10.0, 101.0), (None, None)])
def test_zeros_and_losses_of_either_sign_are_on_the_host_what_they_are_on_tensors(
    losses, start
) -> None:
    host, tensors = (ALRC(3, 0.9, *start, warmup=1, scale="linear") for _ in range(2))
    for _ in range(4):
        x, y = (torch.tensor(losses, requires_grad=True) for _ in range(2))
        one, other = host(x), tensors(y, torch.ones(len(losses)))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(
            *(torch.autograd.grad(z.sum(), w)[0] for z, w in ((one, x), (other, y))),
            rtol=1e-6,
            atol=0.0,
        )
        assert host.to_dict() == pytest.approx(tensors.to_dict(), rel=1e-5)


def test_clip_refuses_the_moments_of_another_number_of_groups_in_words() -> None:
    plain, grouped = ALRC(**START).settings, ALRC(**START, num_groups=3).settings
    for mine, others, shape in ((plain, grouped, "(3,)"), (grouped, plain, "()")):
        group = None if mine is plain else 0
        with pytest.raises(ValueError, match="clip: moments must have the shape") as error:
            clip(torch.tensor(8.0), init(others), mine, group=group)
        assert str(error.value) == (
            f"clip: moments must have the shape {mine.shape} of num_groups={mine.num_groups}; got "
            f"{shape}, {shape} and {shape}. Pass what init(settings) made with these settings."
        )


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e300])
def test_weights_in_float64_count_however_small_or_large(scale) -> None:
    alrc, mask = ALRC(decay=0.0, **START), torch.tensor([scale, scale], dtype=torch.float64)
    assert alrc(torch.tensor([2.0, 20.0]), mask).tolist() == [2.0, 4.0]
    assert (alrc.num_losses, alrc.mean, alrc.variance) == (2, 3.0, 1.0)


class Sharded(torch.Tensor):
    """A tensor of which each rank has a part, to the eye of ALRC."""

    def full_tensor(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("sync", [False, True])
def test_a_loss_of_which_each_rank_has_a_part_is_refused_in_words(sync) -> None:
    loss = torch.tensor(8.0).as_subclass(Sharded)
    alrc = ALRC(**START, sync=sync)
    with pytest.raises(TypeError) as error:
        alrc(loss)
    assert str(error.value) == (
        "ALRC: loss must be a floating tensor, because it is scaled to its limit; got a Sharded, a "
        "part on each rank. Pass loss.full_tensor(), which every rank then limits alike."
    )
    assert alrc(loss.full_tensor()) == 4.0


def test_pickles_of_modules_without_hooks_go_on() -> None:
    alrc = trained()
    old = {k: v for k, v in alrc.__getstate__().items() if k not in ("_step_hooks", "_vetted")}
    loaded = ALRC.__new__(ALRC)
    loaded.__setstate__(pickle.loads(pickle.dumps(old)))
    loaded(torch.tensor(2.0))
    alrc(torch.tensor(2.0))
    assert loaded.to_dict() == alrc.to_dict()


def test_step_hooks_get_what_the_rule_has_found() -> None:
    alrc, seen = ALRC(**START), []
    handle = alrc.register_step_hook(lambda *call: seen.append(call))
    losses, mask = torch.tensor([8.0, 1.0]), torch.tensor([True, True])
    alrc(torch.tensor(8.0))
    alrc(losses)
    alrc(losses, mask)
    alrc.eval()(losses)
    alrc.train()
    handle.remove()
    alrc(losses)
    assert [call[0] is alrc for call in seen] == [True] * 3
    assert [(call[2], call[3]) for call in seen] == [(None, None), (None, None), (mask, None)]
    factors = [torch.as_tensor(call[4].losses.factor).tolist() for call in seen]
    half = pytest.approx(0.5, rel=0.01)
    assert factors == [0.5, [half, 1.0], [half, 1.0]]
    assert [torch.as_tensor(call[4].losses.limited).tolist() for call in seen] == [
        True,
        [True, False],
        [True, False],
    ]
