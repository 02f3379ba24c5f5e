"""Collect the state that lasts from one batch to the next, as plain tensors for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .step import Leaves


@dataclass(frozen=True)
class State:
    """Hold modules by name, and leaves whose optimiser state lasts with them.

    The state is their parameters, their persistent buffers and the optimiser state, and nothing else.
    """

    modules: Mapping[str, nn.Module]
    leaves: Mapping[str, Leaves | None]

    def tensors(self) -> dict[str, Tensor]:
        """Return all of the state, by name."""
        found = {f"{name}.{k}": v for name, module in self.modules.items() for k, v in module.state_dict().items()}
        for name, leaves in self.leaves.items():
            for entry, values in ({} if leaves is None else leaves.optimiser_state).items():
                found |= {f"{name}:{entry}.{number}": value for number, value in enumerate(values)}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        for name, module in self.modules.items():
            start = f"{name}."
            module.load_state_dict({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
        for name, leaves in self.leaves.items():
            if leaves is None:
                continue
            device = leaves.tensors[0].device if leaves.tensors else torch.device("cpu")
            found_state: dict[str, dict[int, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}:"):
                    entry, _, number = key.removeprefix(f"{name}:").rpartition(".")
                    place = torch.device("cpu") if entry == "steps" else device
                    found_state.setdefault(entry, {})[int(number)] = value.to(place).clone()
            leaves.optimiser_state.clear()
            leaves.optimiser_state.update({entry: [v[n] for n in sorted(v)] for entry, v in found_state.items()})


def parameters_of(state: nn.Module | None) -> Leaves:
    """Return a loss's parameters as leaves."""
    return Leaves([] if state is None else list(state.parameters()))


def by_leaves(flat: Sequence[Tensor], leaves: Sequence[Leaves]) -> list[Sequence[Tensor]]:
    """Split a flat sequence of tensors, such as gradients, into parts as long as those of ``leaves``."""
    grouped, start = [], 0
    for group in leaves:
        grouped.append(flat[start : start + len(group.tensors)])
        start += len(group.tensors)
    return grouped
