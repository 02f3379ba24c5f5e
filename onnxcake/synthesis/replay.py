"""Learn a memory: a variational autoencoder of the samples, which is sampled again (PRE-DFKD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import Diverged
from ..core.quantities import Count, NonNegative, Positive, Share
from ..core.rng import Key
from ..store.shard import Batch
from .divergence import NotFinite
from .generator_networks import encoder, generator
from .losses.balance import Balance
from .losses.classification import Classification
from .memory import Bank, Memory, Rows
from .schedules import Constant
from .source import Draft, Targets
from .step import Context, Leaves, Loss, Parts, Step, Weighted
from .synthesizer import Synthesizer
from .updates import Adam

_LEAST = 2  # samples that BatchNorm can normalise


@dataclass(frozen=True)
class Replay(Memory):
    """Fit a variational autoencoder to the samples that the student has seen (Binici et al., AAAI 2022).

    It is fitted to half of each round's samples and to samples out of itself, by the absolute difference of the
    samples and of the teacher's logits to them, and its Kullback-Leibler divergence. A recollection is a draw of the
    latent z ~ N(0, I), improved by one step toward sure and balanced answers, and decoded.

    Attributes:
        latent: numbers in z.
        width: of the two networks.
        fits: steps of fitting in a round.
        share: of a batch that is recalled.
        step_size: of fitting, by Adam.
        recall_step: of the step on z, by Adam.
        divergence: weight of the divergence.
        balance: weight of the balance of classes in a recollection.
    """

    latent: Count = 256
    width: Count = 64
    fits: Count = 4
    share: Share = 0.125
    step_size: Positive = 5e-4
    recall_step: Positive = 2e-2
    divergence: NonNegative = 1e-5
    balance: NonNegative = 5.0

    def init_state(self, context: Context) -> ReplayState:
        with context.key.at("replay").as_default():
            return ReplayState(self, context)

    def remember(self, state: ReplayState, batch: Batch, number: int, synthesizer: Synthesizer, key: Key) -> None:
        signature = synthesizer.teacher.signature
        x, logits = signature.to_standard(batch.inputs), batch.logits
        half = max(_LEAST, len(x) // 2)
        x, logits = x[:half], logits[:half]
        if state.fitted:
            z = state.draw(self._recalled(len(batch.inputs)), key.at("own"))
            with torch.no_grad():
                again = state.decoder(z)
            x = torch.cat([x, again])
            logits = torch.cat([logits, synthesizer.answers(signature.to_input(again))])
        draft = _Fit(state, x, self.divergence, key.at("spread"))
        asked = Targets(logits.argmax(1), logits)
        terms = (Weighted("answers", 1.0, _Answers()),)
        self._refine(synthesizer, draft, asked, terms, self.fits, self.step_size, key)
        state.fitted.fill_(True)

    def recall(self, state: ReplayState, synthesizer: Synthesizer, key: Key) -> Rows | None:
        if not state.fitted:
            return None
        z = state.draw(self._recalled(synthesizer.synthesis.batch), key)
        draft = _Recollection(state, z)
        nobody = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        terms = (Weighted("balance", self.balance, Balance(base=10)), Weighted("sure", 1.0, Classification("self")))
        self._refine(synthesizer, draft, Targets(nobody), terms, 1, self.recall_step, key)
        signature = synthesizer.teacher.signature
        with torch.no_grad():
            inputs = signature.whole(signature.to_input(draft.render()))
        logits = synthesizer.answers(inputs)
        return inputs, logits, logits.argmax(1)

    def _recalled(self, batch: int) -> int:
        return max(_LEAST, round(self.share * batch))

    def _refine(
        self,
        synthesizer: Synthesizer,
        draft: Draft,
        asked: Targets,
        terms: tuple[Weighted, ...],
        steps: int,
        size: float,
        key: Key,
    ) -> None:
        try:
            synthesizer.refine(draft, asked, terms, steps, Adam(Constant(size)), size, key)
        except NotFinite as failure:  # a recollection takes one step only: it is the networks that are broken
            raise Diverged(
                f"the memory's loss is not finite at step {failure.step}",
                where=synthesizer.teacher.name,
                remedy=f"Lower its step size, for example -o student.memory.replay.step_size={self.step_size / 10:g}.",
            ) from failure


class ReplayState(nn.Module):
    """Hold the two networks; `leaves` are their weights."""

    fitted: Tensor

    def __init__(self, replay: Replay, context: Context) -> None:
        super().__init__()
        self.encoder = encoder(context.signature, latent=replay.latent, width=replay.width)
        self.decoder = generator(context.signature, latent=replay.latent, width=replay.width, head="tanh_norm")
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.leaves = Leaves([*self.encoder.parameters(), *self.decoder.parameters()])
        self.latent = replay.latent

    def draw(self, samples: int, key: Key) -> Tensor:
        """Draw z [samples, latent] from its prior."""
        return torch.randn(samples, self.latent, generator=key.generator()).to(self.fitted.device)


class _Fit(Draft):
    """Reconstruct samples; the leaves are the networks' weights."""

    def __init__(self, state: ReplayState, x: Tensor, divergence: float, key: Key) -> None:
        self.leaves = [state.leaves]
        self._state, self._x, self._weight, self._draw = state, x, divergence, key.generator()
        self._penalty = x.new_zeros(())

    def render(self) -> Tensor:
        mean, log_variance = self._state.encoder(self._x)
        noise = torch.randn(mean.shape, generator=self._draw).to(mean)
        x: Tensor = self._state.decoder(mean + noise * (0.5 * log_variance).exp())
        apart = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        self._penalty = F.l1_loss(x, self._x) + self._weight * apart
        return x

    def penalty(self) -> Tensor:
        return self._penalty


class _Recollection(Draft):
    """Decode samples out of the memory; the leaf is z, whose mean and variance are kept."""

    def __init__(self, state: ReplayState, z: Tensor) -> None:
        self.leaves = [Leaves([z])]
        self._decoder = state.decoder

    def render(self) -> Tensor:
        x: Tensor = self._decoder(self.leaves[0].tensors[0])
        return x

    def penalty(self) -> Tensor:
        z = self.leaves[0].tensors[0]
        return z.mean().square() + (z.var() - 1).square()


@dataclass(frozen=True)
class _Answers(Loss):
    """Compute the mean absolute difference of the teacher's logits from those that were asked for."""

    def __call__(self, step: Step, state: Any = None) -> Tensor:
        assert step.targets is not None
        return F.l1_loss(step.logits, step.targets)


MEMORIES: Parts = {"bank": Bank, "replay": Replay}
