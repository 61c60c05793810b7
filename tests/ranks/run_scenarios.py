"""What each rank does, started by torchrun: ``run_scenarios.py FOLDER [SCENARIO ...]``.

Runs all scenarios in turn, or those named, because starting processes takes longer than all of
them. What a scenario returns on a rank goes to ``FOLDER/SCENARIO.RANK.pt``, for the tests of ranks.
"""

import faulthandler
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from ranks import scenarios_alone, scenarios_at_odds, scenarios_training

PATIENCE = 1200  # seconds of one scenario, after which a rank that hangs ends itself


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=600))
    rank, world = dist.get_rank(), dist.get_world_size()
    alone, training, at_odds = scenarios_alone, scenarios_training, scenarios_at_odds
    scenarios = [alone.alone, alone.reading, alone.copies, alone.writing, alone.collectives]
    scenarios += [training.ddp, training.fsdp2, training.ddp_resumed, training.ddp_autocast]
    scenarios += [training.fsdp2_accumulated]
    # A graph is the same for any number of ranks, and takes each of them a while to compile.
    graphs = [at_odds.compiled, at_odds.compiled_after_eager]
    scenarios += [alone.groups_of_two] if world == 4 else graphs
    for scenario in [*scenarios, at_odds.skipped, at_odds.died]:
        if names and scenario.__name__ not in names:
            continue
        faulthandler.dump_traceback_later(PATIENCE, exit=True)  # instead of the last one
        try:
            seen = scenario(rank, world)
        except BaseException:
            (folder / f"{scenario.__name__}.{rank}.error").write_text(traceback.format_exc())
            raise
        torch.save(seen, folder / f"{scenario.__name__}.{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
