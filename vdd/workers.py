"""Several processes at one piece of work, as `accelerate launch` or `torchrun` starts them; or one alone.

Knows: ranks. Does not know: what the work is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=30)
"""How long a process that is ready waits for the others: a launcher ends them all where one dies."""


@dataclass(frozen=True)
class Workers:
    """The processes.

    Attributes:
        rank: this one's number, from 0; the first one writes what all have in common.
        count: how many there are.
        local_rank: this one's number on its machine, which is the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def launched(cls) -> Workers:
        """Those that the launcher told this process of; one alone where there was none."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        import torch
        from accelerate import PartialState

        # without `cpu`, processes that find no GPU are each left alone
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, state.local_process_index)

    @property
    def is_first(self) -> bool:
        """Whether this is the first one."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def device(self, asked: str | None) -> str | None:
        """The device that this process's model goes to: its own GPU where each has one, and none was asked for."""
        if self.count == 1 or asked is not None:
            return asked
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else None
