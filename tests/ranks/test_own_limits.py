"""Ranks with limits of their own inside of DistributedDataParallel, which broadcasts buffers."""

import pytest
import torch
from launching import TORCHRUN, launch

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from alrc.torch import ALRC

class Model(nn.Module):
    def __init__(self, sync):
        super().__init__()
        self.linear, self.alrc = nn.Linear(4, 1), ALRC(3, 0.9, scale="linear", sync=sync)

    def forward(self, x, y):
        self.raw = (self.linear(x) - y).square().mean()
        return self.alrc(self.raw)

dist.init_process_group("gloo")
rank = dist.get_rank()
groups = [dist.new_group([0, 1]), dist.new_group([0]), dist.new_group([1])]
result = {}
for name, sync in (("apart", False), ("group", groups[1 + rank]), ("compiled", False)):
    torch.manual_seed(0)
    model, own, steps = Model(sync), ALRC(3, 0.9, scale="linear"), []
    inner = torch.compile(model, backend="aot_eager") if name == "compiled" else model
    wrapped = DistributedDataParallel(inner)
    torch.manual_seed(rank + 1)
    for _ in range(40):
        # Losses of the second rank are a hundred times as large.
        limited = wrapped(torch.randn(4, 4), torch.randn(4, 1) * (10 if rank else 1))
        limited.backward()
        expected = own(model.raw.detach().requires_grad_())
        steps.append((limited.item(), expected.item(), model.alrc.to_dict(), own.to_dict()))
    result[name] = steps
torch.save(result, f"{sys.argv[1]}/{rank}.pt")
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    launch(TORCHRUN, SCRIPT, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ["apart", "group", "compiled"])
def test_each_rank_keeps_its_own_moments_at_every_step(two_ranks, name) -> None:
    for rank, result in enumerate(two_ranks):
        for limited, expected, state, own in result[name]:
            assert limited == pytest.approx(expected, rel=1e-5)
            assert state == pytest.approx(own, rel=1e-4)
        assert state["mean"] > 20 * (2 * rank - 1)
    assert two_ranks[1][name][-1][2]["num_clipped"] < 10
