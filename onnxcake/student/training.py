"""The one place that steps a student: it learns from a store, step by step, and goes on where it stopped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import interrupt
from ..errors import Diverged
from ..files import make_folder, remove, sweep, write_with_digest
from ..rng import Key
from ..store import StoreDataset
from ..tensorfile import SUFFIX, pack, unpack
from .loss import Distillation, decisions
from .optimise import OPTIMISERS, LearningRate, Optimiser, set_rate

_NAME = re.compile(r"^step-(\d{9})-[0-9a-f]{16}\.safetensors$")
_KEEP = 2  # checkpoints: the newest, and one more should that be damaged
_LOOK_EVERY = 50  # steps between two looks at whether the loss is finite


@dataclass(frozen=True)
class Regime:
    """How a student learns.

    Attributes:
        steps: in all.
        batch: samples for each.
        loss, optimiser, learning_rate: the parts that a recipe named.
        checkpoint_every: steps between two checkpoints.
        multilabel: whether each logit is a yes or no of its own.
    """

    steps: int
    batch: int
    loss: Distillation
    optimiser: Optimiser
    learning_rate: LearningRate
    checkpoint_every: int
    multilabel: bool = False


class Training:
    """A student, its optimiser and the step they have reached.

    Args:
        student: fresh; its weights are replaced if ``folder`` has a checkpoint of this training.
        data: what it learns from.
        key: the order of the samples depends on it.
        folder: for the checkpoints.
        run_key: a digest over all that the student depends on; checkpoints of another are removed.
        device: where it learns.
    """

    def __init__(
        self,
        student: nn.Module,
        data: StoreDataset,
        regime: Regime,
        *,
        key: Key,
        folder: Path,
        run_key: str,
        device: torch.device,
    ) -> None:
        self.student, self.data, self.regime, self.key = student.to(device), data, regime, key
        self.folder, self.run_key, self.device = folder, run_key, device
        self.optimiser = regime.optimiser.build(student.parameters())
        self.step, self.loss = 0, math.nan
        make_folder(folder)
        sweep(folder)
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.regime.steps

    def learn(self, tick: Callable[[float], None] = lambda loss: None) -> nn.Module:
        """Takes the steps that are left, writing checkpoints; returns the student in eval mode.

        Args:
            tick: told the loss as last seen, once a step.

        Raises:
            Diverged: at a loss that is not finite; the last checkpoint before it is kept.
            Interrupted: after a checkpoint, if a signal came.
        """
        self.student.train()
        per_epoch = math.ceil(len(self.data) / self.regime.batch)
        with interrupt.deferred():
            while not self.finished and not interrupt.requested():
                epoch, first = divmod(self.step, per_epoch)
                for rows in self.data.epoch(self.regime.batch, self.key, epoch, first):
                    loss = self._take_step(*(tensor.to(self.device) for tensor in rows))
                    self.step += 1
                    due = self.step % self.regime.checkpoint_every == 0
                    if self.step % _LOOK_EVERY == 0 or due or self.finished or interrupt.requested():
                        self._look(loss)
                    tick(self.loss)
                    if due or self.finished or interrupt.requested():
                        self._save()
                    if self.finished or interrupt.requested():
                        break
        return self.student.eval()

    def _take_step(self, inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        factor, momentum = self.regime.learning_rate.at(self.step, self.regime.steps)
        set_rate(self.optimiser, self.regime.optimiser.lr * factor, momentum)
        self.optimiser.zero_grad(set_to_none=True)
        rows = (self.student(inputs), logits, labels)
        loss = self.regime.loss(*(decisions(*rows) if self.regime.multilabel else rows))
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _look(self, loss: Tensor) -> None:
        self.loss = float(loss)
        if math.isfinite(self.loss) and all(weights.isfinite().all() for weights in self.student.parameters()):
            return
        optimiser = self.regime.optimiser
        name = next(name for name, kind in OPTIMISERS.items() if isinstance(optimiser, kind))
        raise Diverged(
            f"the student's loss or weights are not finite at step {self.step}",
            where=self.folder,
            remedy=f"Lower the learning rate, for example -o student.optimiser.{name}.lr={optimiser.lr / 10:g}. "
            "The synthetic set is kept.",
        )

    def _save(self) -> None:
        tensors = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{number}.{name}"] = value
        content = pack(
            {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
            {"run_key": self.run_key, "step": self.step},
        )
        write_with_digest(self.folder, f"step-{self.step:09d}", SUFFIX, content)
        for old in self._checkpoints()[_KEEP:]:
            remove(old)

    def _checkpoints(self) -> list[Path]:
        """All checkpoints, newest first."""
        return sorted((path for path in self.folder.iterdir() if _NAME.match(path.name)), reverse=True)

    def _resume(self) -> None:
        for path in self._checkpoints():
            if self._load(path):
                return
            remove(path)  # damaged, or of another training in the same folder

    def _load(self, path: Path) -> bool:
        found = unpack(path)
        if found is None or found[1].get("run_key") != self.run_key:
            return False
        tensors, facts = found
        state: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, entry = rest.partition(".")
                state.setdefault(int(number), {})[entry] = value.clone()
            else:
                weights[rest] = value
        self.student.load_state_dict(weights)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.step = int(facts["step"])
        return True
