"""Make samples on which a teacher shows its decision boundary: draw → gradient → step → project → answer.

The only place that steps samples, generators, or whatever else samples are made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..core.rng import Key
from ..store.shard import Batch
from ..teacher.autotune import autocast
from ..teacher.capabilities import MethodInputs
from ..teacher.teacher import Teacher
from .divergence import NotFinite, check, diverged
from .source import ConditionalDraft, DecisionDraft, Draft, MetaDraft, PersistentDraft, RegularisedDraft, Targets
from .spec import Synthesis
from .state import State, by_leaves, parameters_of
from .step import Answers, Context, Counter, Leaves, Step, Weighted, silent
from .updates import Update

ATTEMPTS = 3  # an independent batch that diverges is started afresh, each time with another key
_CHECK_EVERY = 50  # steps between two checks that the losses are finite; each waits for the device


class Synthesizer:
    """Make batches, and hold what lasts from one to the next.

    Args:
        view: what the parts may use of the teacher's inside.
        student: input units → the student's logits, for losses that need it.
        classify: input units → the classes that onnxruntime names, for a decision-based source.
        count: told how many samples went through the teacher, with gradient and without.
    """

    def __init__(
        self,
        teacher: Teacher,
        synthesis: Synthesis,
        key: Key,
        *,
        view: MethodInputs | None = None,
        student: Answers | None = None,
        classify: Answers | None = None,
        count: Counter = silent,
    ) -> None:
        self.teacher, self.synthesis, self.key, self.count = teacher, synthesis, key, count
        self._student, self._classify = student, classify
        view = view or MethodInputs()
        self.context = Context(teacher.signature, view, key.at("parts"), teacher.device, synthesis.batch)
        self.source = synthesis.source.init_state(self.context)
        self.states = {term.name: term.loss.init_state(self.context) for term in synthesis.losses}
        self._begun = synthesis.labels.init_state(self.context)
        for state in (self.source, *self.states.values()):
            if state is not None:
                state.to(teacher.device)
        self._learnt = [leaves for leaves in map(parameters_of, self.states.values()) if leaves.tensors]
        needs, last = synthesis.needs, view.last_layer
        self._taps = view.statistics.taps if view.statistics and "statistics" in needs else ()
        self._taps += (last.features,) if last and "features" in needs and last.features not in self._taps else ()

    @property
    def lasting(self) -> State:
        """Collect what a checkpoint keeps."""
        modules = {"source": self.source, **{f"loss.{name}": state for name, state in self.states.items()}}
        held: Leaves | None = getattr(self.source, "leaves", None)
        return State(
            {name: module for name, module in modules.items() if module is not None},
            {"source": held, **{f"loss.{number}": leaves for number, leaves in enumerate(self._learnt)}},
        )

    @property
    def independent(self) -> bool:
        """Tell whether a batch is a pure function of teacher, recipe, plan and key."""
        alone = self.synthesis.source.independent and "student" not in self.synthesis.needs
        return alone and not self.lasting.tensors()

    def make(self, index: int, ask: bool = True) -> Batch:
        """Make batch ``index``; start an independent one that diverges afresh, a few times.

        Args:
            ask: for the teacher's answers to it; without, its logits are [n, 0].

        Raises:
            Diverged: if it stays non-finite.
        """
        failures: list[NotFinite] = []
        for attempt in range(ATTEMPTS if self.independent else 1):
            try:
                return self.attempt(index, attempt, ask)
            except NotFinite as failure:
                failures.append(failure)
        raise diverged(self.teacher.name, self.synthesis, index, failures)

    def attempt(self, index: int, attempt: int = 0, ask: bool = True) -> Batch:
        """Make batch ``index`` from its start number ``attempt``.

        Raises:
            NotFinite: if it diverges.
        """
        synthesis, key = self.synthesis, self.key.at("batch", index, attempt)
        asked, draft = self._start(key, index)
        position = synthesis.position(index)
        size = synthesis.update.step_size(position)
        terms = tuple(term for term in synthesis.losses if position >= term.after)
        self.refine(draft, asked, terms, synthesis.steps, synthesis.update, size, key, self._learnt)
        return self._finished(draft, asked, index, attempt, ask)

    def refine(
        self,
        draft: Draft,
        asked: Targets,
        terms: tuple[Weighted, ...],
        steps: int,
        update: Update,
        size: float,
        key: Key,
        learnt: Sequence[Leaves] = (),
    ) -> None:
        """Step a draft's leaves, and those that the losses learn, down the losses' gradient.

        Args:
            asked: classes that the samples are to become.
            terms: losses, weighted; ``trace`` of their values tells a divergence.
            size: of a step, handed to ``update``.
            learnt: leaves of the losses' own networks.

        Raises:
            NotFinite: if a loss is not finite.
        """
        noise, draw = key.at("noise").generator(self.teacher.device), key.at("draw").generator()
        trace = torch.zeros(steps, max(len(terms), 1), device=self.teacher.device)
        step: Step | None = None
        decision = draft if isinstance(draft, DecisionDraft) else None
        meta = draft if isinstance(draft, MetaDraft) else None
        gradients: Sequence[Sequence[Tensor]]
        for number in range(steps):
            if decision is not None:
                gradients = decision.gradients(self._classes, asked.labels)
            else:
                gradients, step = self._gradients(draft, asked, terms, trace[number], draw, learnt)
            if meta is not None:
                meta.saw(gradients[: len(draft.leaves)])
            for leaves, gradient in zip((*draft.leaves, *learnt), gradients, strict=False):
                _advance(update, leaves, gradient, size, noise)
            with torch.no_grad():
                draft.project()
            if (number + 1) % _CHECK_EVERY == 0:
                check(trace[: number + 1], terms)
        if meta is not None:
            _advance(update, *meta.outer(), size, noise)
        with torch.no_grad():
            if isinstance(draft, PersistentDraft):
                draft.settle()
            if step is not None:
                for term in terms:
                    term.loss.settle(step, self.states.get(term.name))
        check(trace, terms)

    def fresh(self, key: Key, number: int = 0, ask: bool = True) -> Batch:
        """Make a batch of some number as it is drafted, without steps; ``ask`` as for `make`.

        Raises:
            Diverged: if it is not finite.
        """
        asked, draft = self._start(key, number)
        try:
            return self._finished(draft, asked, 0, 0, ask)
        except NotFinite as failure:
            raise diverged(self.teacher.name, self.synthesis, number, [failure]) from failure

    def answers(self, inputs: Tensor) -> Tensor:
        """Compute the teacher's logits [n, classes] of inputs, without gradient, in chunks."""
        with torch.no_grad():
            parts = [self.teacher.logits(part) for part in inputs.split(self.synthesis.chunk)]
        self.count(0, len(inputs))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _start(self, key: Key, number: int) -> tuple[Targets, Draft]:
        synthesis, device = self.synthesis, self.teacher.device
        rows = synthesis.batch // synthesis.groups
        classes, labels = self.teacher.signature.classes, key.at("labels").generator()
        asked = synthesis.labels(rows, synthesis.groups, classes, labels, self._begun)
        draft = synthesis.source.draft(synthesis.batch, self.context, key.at("start"), self.source, number)
        own = draft.labels
        targets = None if asked.targets is None else asked.targets.to(device)
        asked = Targets((asked.labels if own is None else own).to(device), targets)
        if isinstance(draft, ConditionalDraft):
            draft.condition(asked)
        return asked, draft

    def _gradients(
        self,
        draft: Draft,
        asked: Targets,
        terms: tuple[Weighted, ...],
        trace: Tensor,
        draw: torch.Generator,
        learnt: Sequence[Leaves],
    ) -> tuple[list[Sequence[Tensor]], Step | None]:
        """Compute ∂L/∂leaf for the draft's leaves, then the losses' own; add the terms' values into ``trace``."""
        synthesis = self.synthesis
        with torch.enable_grad():
            for leaf in (leaf for leaves in draft.leaves for leaf in leaves.tensors):
                leaf.requires_grad_(True)
            x = draft.render()
            direct = not synthesis.augment and x is draft.leaves[0].tensors[0]  # the samples are what is stepped
            for augment in synthesis.augment:
                x = augment(x, draw)
        own = [tensor for leaves in learnt for tensor in leaves.tensors]
        parts, of_own, step = [], [torch.zeros_like(tensor) for tensor in own], None
        for rows in self._chunks(len(x)):
            part = x[rows].detach().requires_grad_(True)
            share = len(part) / len(x)
            step = self._step(part, asked, rows, draw)
            values = [term.loss(step, self.states.get(term.name)) for term in terms] or [step.logits.sum() * 0]
            trace.add_(torch.stack(values).detach(), alpha=share)  # the terms are means
            weighted = [value * term.weight for term, value in zip(terms, values, strict=False)] or values
            total = torch.stack(weighted).sum() * (share * synthesis.batch / synthesis.reference_batch)
            found = torch.autograd.grad(total, [part, *own], allow_unused=True, materialize_grads=True)
            parts.append(found[0])
            if own:
                torch._foreach_add_(of_own, found[1:])
        gradient = parts[0] if len(parts) == 1 else torch.cat(parts)
        flat = (gradient,) if direct else _through(x, draft, gradient)
        return by_leaves((*flat, *of_own), (*draft.leaves, *learnt)), step

    def _step(self, part: Tensor, asked: Targets, rows: slice, draw: torch.Generator) -> Step:
        inputs = self.teacher.signature.to_input(part)
        with_gradient = torch.is_grad_enabled()
        dtype = self.synthesis.dtype if with_gradient else "float32"
        with autocast(self.teacher.device, dtype):
            logits, taps = self.teacher.answer(inputs, self._taps)
        self.count(len(part) if with_gradient else 0, 0 if with_gradient else len(part))
        student = self._student

        def ask() -> Tensor:
            assert student is not None
            with autocast(self.teacher.device, dtype):
                return student(inputs).float()

        return Step(
            part,
            asked.labels[rows],
            logits.float(),
            self.synthesis.groups,
            self.teacher.signature.task == "multilabel",
            None if asked.targets is None else asked.targets[rows],
            {name: value.float() for name, value in taps.items()},
            ask=None if student is None else ask,
            again=lambda view: self._step(view, asked, rows, draw),
            draw=draw,
        )

    def _chunks(self, samples: int) -> Iterator[slice]:
        for start in range(0, samples, self.synthesis.chunk):
            yield slice(start, min(start + self.synthesis.chunk, samples))

    def _classes(self, x: Tensor) -> Tensor:
        assert self._classify is not None, "a source that asks for classes says so in its needs"
        self.count(0, len(x))
        return self._classify(self.teacher.signature.whole(self.teacher.signature.to_input(x)))

    def _finished(self, draft: Draft, asked: Targets, index: int, attempt: int, ask: bool) -> Batch:
        """Finish the last iterate, with the teacher's answers to it if it is asked."""
        with torch.no_grad():
            decision = draft if isinstance(draft, DecisionDraft) else None
            given = None if decision is None else decision.answers(self._classes, asked.labels)
            own = draft.labels
            inputs = self.teacher.signature.whole(self.teacher.signature.to_input(draft.render())).detach()
            if given is None:
                given = self.answers(inputs) if ask else inputs.new_zeros(len(inputs), 0)
        if not (inputs.isfinite().all() and given.isfinite().all()):
            raise NotFinite(None, self.synthesis.steps)
        labels = asked.labels if own is None else own.to(asked.labels)
        return Batch(index, inputs, given.float(), labels, attempt)


def _advance(
    update: Update, leaves: Leaves, gradients: Sequence[Tensor], step_size: float, noise: torch.Generator
) -> None:
    """Step inputs or generators: the one place where that is done."""
    with torch.no_grad():
        update(leaves, gradients, step_size, noise)


def _through(x: Tensor, draft: Draft, gradient: Tensor) -> tuple[Tensor, ...]:
    """Take the gradient at the samples on to what they were rendered from."""
    tensors = [tensor for leaves in draft.leaves for tensor in leaves.tensors]
    with torch.enable_grad():
        penalty = draft.penalty() if isinstance(draft, RegularisedDraft) else None
    ends, along = ([x], [gradient]) if penalty is None else ([x, penalty], [gradient, torch.ones_like(penalty)])
    return torch.autograd.grad(ends, tensors, along, allow_unused=True, materialize_grads=True)
