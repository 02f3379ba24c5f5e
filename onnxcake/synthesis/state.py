"""What lasts from one batch to the next, as plain tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .step import Leaves


@dataclass(frozen=True)
class State:
    """Modules by name, and leaves whose moments last with them.

    Their state is their parameters, their persistent buffers and the moments, and nothing else.
    """

    modules: Mapping[str, nn.Module]
    leaves: Mapping[str, Leaves | None]

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        found = {f"{name}.{k}": v for name, module in self.modules.items() for k, v in module.state_dict().items()}
        for name, leaves in self.leaves.items():
            for moment, values in ({} if leaves is None else leaves.moments).items():
                found |= {f"{name}:{moment}.{number}": value for number, value in enumerate(values)}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""
        for name, module in self.modules.items():
            start = f"{name}."
            module.load_state_dict({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
        for name, leaves in self.leaves.items():
            if leaves is None:
                continue
            device = leaves.tensors[0].device if leaves.tensors else torch.device("cpu")
            moments: dict[str, dict[int, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}:"):
                    moment, _, number = key.removeprefix(f"{name}:").rpartition(".")
                    place = torch.device("cpu") if moment == "steps" else device
                    moments.setdefault(moment, {})[int(number)] = value.to(place).clone()
            leaves.moments.clear()
            leaves.moments.update({moment: [v[n] for n in sorted(v)] for moment, v in moments.items()})


def parameters_of(state: nn.Module | None) -> Leaves:
    """What a loss learns, as leaves."""
    return Leaves([] if state is None else list(state.parameters()))


def by_leaves(flat: Sequence[Tensor], leaves: Sequence[Leaves]) -> list[Sequence[Tensor]]:
    """One sequence of tensors, such as gradients, in parts as long as those of ``leaves``."""
    grouped, start = [], 0
    for group in leaves:
        grouped.append(flat[start : start + len(group.tensors)])
        start += len(group.tensors)
    return grouped
