"""There is one place that steps what samples are made from, one that steps a student, and one inner meta step.

Found in the source: calls of an update, of an optimiser's ``step`` and of ``backward``, optimisers made, gradients
taken so that they can be differentiated again, and tensors that are stepped in place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxcake.synthesis.updates import UPDATES

PACKAGE = Path(__file__).resolve().parent.parent / "onnxcake"
KINDS = {kind.__name__ for kind in UPDATES.values()}
OF_AN_UPDATE = {"leaves", "gradients", "step_size", "noise"}
HARMLESS = {"requires_grad_", "detach_", "share_memory_"}  # they move no value

Place = tuple[str, str, str]  # file, function, what is done there


class Finder(ast.NodeVisitor):
    """Walks over one file.

    What is stepped is known by where it comes from: ``….tensors`` and ``….leaves``, ``….parameters()``, and names
    bound to these, to parts of them and to what a loop takes out of them.
    """

    def __init__(self, file: str) -> None:
        self.file, self.found = file, list[Place]()
        self._scope: list[str] = []
        self._known: dict[str, str] = {}  # what an imported name stands for
        self._leaves: set[str] = set()
        self._updates = {"update"}  # names that one goes by

    # --- where the walk is

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._within(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = self._leaves, self._updates
        self._leaves, self._updates = set(self._leaves), set(self._updates)
        for _ in range(2):  # a name may be used above where it is bound, in a loop
            for inner in ast.walk(node):
                self._bind(inner)
        self._within(node)
        self._leaves, self._updates = outer

    def visit_Module(self, node: ast.Module) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import):
                self._known |= {alias.asname: alias.name for alias in inner.names if alias.asname}
            elif isinstance(inner, ast.ImportFrom) and inner.module:
                self._known |= {alias.asname or alias.name: f"{inner.module}.{alias.name}" for alias in inner.names}
        self.generic_visit(node)

    def _within(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()

    def _note(self, what: str) -> None:
        self.found.append((self.file, ".".join(self._scope), what))

    # --- what is stepped

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.For | ast.comprehension):
            pairs = list(self._taken(node.target, node.iter))
        elif isinstance(node, ast.NamedExpr):
            pairs = [(node.target, node.value)]
        else:
            return
        for target, value in pairs:
            names = {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
            if self._is_leaf(value):
                self._leaves |= names
            if (isinstance(value, ast.Call) and _name(value.func) in KINDS) or _name(value) == "update":
                self._updates |= names

    def _taken(self, target: ast.expr, values: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
        """What a loop binds to what; through ``zip``, one by one."""
        if isinstance(values, ast.Call) and isinstance(target, ast.Tuple) and _name(values.func) == "zip":
            yield from zip(target.elts, values.args, strict=False)
        else:
            yield target, values

    def _is_leaf(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._leaves
        if isinstance(node, ast.Attribute):
            return node.attr in ("tensors", "leaves") or (node.attr == "data" and self._is_leaf(node.value))
        if isinstance(node, ast.Subscript | ast.Starred):
            return self._is_leaf(node.value)
        if isinstance(node, ast.Call):
            name = _name(node.func)
            through = name in ("list", "tuple", "enumerate", "zip", "reversed")
            return name.endswith("parameters") or (through and any(map(self._is_leaf, node.args)))
        if isinstance(node, ast.Tuple | ast.List):
            return any(map(self._is_leaf, node.elts))
        return isinstance(node, ast.GeneratorExp | ast.ListComp) and self._is_leaf(node.elt)

    # --- what is done

    def visit_Call(self, node: ast.Call) -> None:
        name, full = _name(node.func), self._full(node.func)
        if self._is_update(node):
            self._note("calls an update")
        if name == "step" and isinstance(node.func, ast.Attribute):
            self._note("steps an optimiser")
        if name == "backward":
            self._note("goes backward")
        if full.startswith("torch.optim."):
            self._note("makes an optimiser")
        if any(word.arg == "create_graph" for word in node.keywords):
            self._note("differentiates a gradient")
        if self._is_in_place(node, name):
            self._note("steps in place")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if self._is_leaf(node.target):
            self._note("steps in place")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            part = isinstance(target, ast.Subscript) and not isinstance(target.value, ast.Attribute)
            if (part or (isinstance(target, ast.Attribute) and target.attr == "data")) and self._is_leaf(target):
                self._note("steps in place")
        self.generic_visit(node)

    def _is_update(self, node: ast.Call) -> bool:
        """``update(leaves, gradients, …)``, whoever holds it, and ``Adam(…)(leaves, gradients, …)``."""
        if isinstance(node.func, ast.Call):
            return _name(node.func.func) in KINDS
        named = any(word.arg in OF_AN_UPDATE for word in node.keywords)
        several = len(node.args) > 2 or any(isinstance(argument, ast.Starred) for argument in node.args)
        return _name(node.func) in self._updates and (several or named)  # a dict's and a digest's take one

    def _is_in_place(self, node: ast.Call, name: str) -> bool:
        if any(word.arg == "out" and self._is_leaf(word.value) for word in node.keywords):
            return True
        if not name.endswith("_") or name.endswith("__") or name in HARMLESS:
            return False
        receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
        given = [receiver] if receiver is not None else []
        return any(map(self._is_leaf, [*given, *node.args[:1]] if name.startswith("_foreach_") else given))

    def _full(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self._known.get(node.id, node.id)
        return f"{self._full(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _name(node: ast.expr) -> str:
    """The last part of what is called."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def places(source: str, file: str = "sneaked.py") -> list[Place]:
    """Everything in a file that steps, or helps to."""
    finder = Finder(file)
    finder.visit(ast.parse(source))
    return finder.found


@pytest.fixture(scope="module")
def everywhere() -> list[Place]:
    return [
        place
        for path in sorted(PACKAGE.rglob("*.py"))
        for place in places(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix())
    ]


def of(found: list[Place], *what: str) -> list[tuple[str, str]]:
    return [(file, function) for file, function, done in found if done in what]


def test_samples_and_generators_are_stepped_in_one_place(everywhere: list[Place]) -> None:
    assert of(everywhere, "calls an update") == [("synthesis/synthesizer.py", "_advance")]


def test_a_student_is_stepped_in_one_place(everywhere: list[Place]) -> None:
    take = ("student/training.py", "Training._backward")
    assert of(everywhere, "steps an optimiser") == [take]
    # The other looks where a teacher's gradient ends.
    assert set(of(everywhere, "goes backward")) == {take, ("teacher/gradient.py", "dying_steps")}
    # The other has Adam's function step what is no matrix, within its own step.
    muon = ("student/muon.py", "Muon._adam")
    makes = [place for place in of(everywhere, "makes an optimiser") if place != muon]
    assert {file for file, _ in makes} == {"student/optimisers.py"}


def test_the_meta_step_is_the_one_inner_step(everywhere: list[Place]) -> None:
    assert of(everywhere, "differentiates a gradient") == [("student/retain.py", "retained_loss")]


def test_what_is_stepped_is_changed_in_place_by_updates_alone(everywhere: list[Place]) -> None:
    """And by a source that brings its samples back into the valid range."""
    found = set(of(everywhere, "steps in place"))
    updates = {("synthesis/updates.py", f"{kind}.__call__") for kind in KINDS}
    assert found == updates | {("synthesis/sources/pixels.py", "PixelDraft.project")}


def test_everything_found_is_accounted_for(everywhere: list[Place]) -> None:
    assert {file for file, _, _ in everywhere} == {
        "student/muon.py",
        "student/optimisers.py",
        "student/retain.py",
        "student/training.py",
        "synthesis/synthesizer.py",
        "synthesis/sources/pixels.py",
        "synthesis/updates.py",
        "teacher/gradient.py",
    }


SNEAKED = {
    "an update that is handed in": ("update(leaves, gradients, 0.1, noise)", "calls an update"),
    "an update, its arguments unpacked": ("update(*outer)", "calls an update"),
    "a method's update": ("self.synthesis.update(leaves, gradients, size, noise)", "calls an update"),
    "an update by keywords": ("update(leaves, gradients, step_size=0.1, noise=noise)", "calls an update"),
    "an update made on the spot": ("Adam(Constant(1.0))(leaves, gradients, 0.1, noise)", "calls an update"),
    "an update by another name": ("go = Sgd(Constant(1.0))\n    go(leaves, gradients, 0.1, noise)", "calls an update"),
    "the method's, by another name": (
        "go = synthesis.update\n    go(leaves, gradients, 0.1, noise)",
        "calls an update",
    ),
    "another optimiser's step": ("self.optimiser.step()", "steps an optimiser"),
    "a step with a closure": ("lbfgs.step(lambda: loss)", "steps an optimiser"),
    "backward": ("loss.sum().backward()", "goes backward"),
    "an optimiser": ("torch.optim.SGD(network.parameters(), lr=0.1)", "makes an optimiser"),
    "an optimiser, imported": ("from torch.optim import Adam as Other\n    Other(x)", "makes an optimiser"),
    "an optimiser's module, imported": ("from torch import optim\n    optim.AdamW(x)", "makes an optimiser"),
    "a scheduler": ("import torch.optim.lr_scheduler as s\n    s.StepLR(x, 1)", "makes an optimiser"),
    "a second meta step": ("torch.autograd.grad(loss, weights, create_graph=True)", "differentiates a gradient"),
    "one leaf": ("leaves.tensors[0].sub_(gradient)", "steps in place"),
    "each leaf": ("for leaf in leaves.tensors:\n        leaf.add_(noise)", "steps in place"),
    "each leaf with its gradient": (
        "for gradient, leaf in zip(gradients, leaves.tensors):\n        leaf -= 0.1 * gradient",
        "steps in place",
    ),
    "leaves of leaves": (
        "for group in draft.leaves:\n        for leaf in group.tensors:\n            leaf.mul_(0.9)",
        "steps in place",
    ),
    "parameters": ("for weight in network.parameters():\n        weight.data.sub_(weight.grad)", "steps in place"),
    "parameters by name": (
        "for name, weight in network.named_parameters():\n        weight.data = weight - 0.1 * slopes[name]",
        "steps in place",
    ),
    "a list of them": (
        "own = [leaf for leaf in leaves.tensors]\n    torch._foreach_add_(own, gradients)",
        "steps in place",
    ),
    "all at once": ("torch._foreach_addcdiv_(leaves.tensors, mean, below, -0.1)", "steps in place"),
    "a part of one": ("x = leaves.tensors[0]\n    x[rows] = x[rows] - gradient", "steps in place"),
    "the output of another": ("torch.sub(x, y, out=self.leaves[0].tensors[0])", "steps in place"),
}


@pytest.mark.parametrize(("line", "what"), SNEAKED.values(), ids=SNEAKED)
def test_another_place_would_be_found(line: str, what: str) -> None:
    assert places(f"def sneaked(update, leaves, network):\n    {line}\n") == [("sneaked.py", "sneaked", what)]
    inside = f"class Loss:\n    def settle(self, update, leaves, network):\n{_indented(line)}\n"
    assert places(inside) == [("sneaked.py", "Loss.settle", what)]


@pytest.mark.parametrize(
    "line",
    [
        "leaves.optimiser_state.update({name: values})",
        "digest.update(block)",
        "bars.update(task, completed=1, note='')",
        "for leaf in leaves.tensors:\n        leaf.requires_grad_(True)",
        "total = [torch.zeros_like(leaf) for leaf in leaves.tensors]\n    total[0].add_(gradient)",
        "for total, leaf in zip(totals, leaves.tensors):\n        total.add_(leaf)",
        "moved = {name: weight - lr * slope for name, weight, slope in three}",
        "self.mean.lerp_(value, 0.1)",
        "step = training.step\n    training.step += 1",
        "held['mean'] = [torch.zeros_like(leaf) for leaf in leaves.tensors]",
        "torch._foreach_add_(of_own, found)",
    ],
)
def test_what_steps_nothing_is_not_found(line: str) -> None:
    assert places(f"def innocent(leaves, totals):\n    {line}\n") == []


@pytest.mark.parametrize(
    "file", ["run/rounds.py", "synthesis/synthesizer.py", "synthesis/sources/latent.py", "student/retain.py"]
)
def test_it_would_be_found_in_the_package(file: str, everywhere: list[Place]) -> None:
    source = (PACKAGE / file).read_text(encoding="utf-8")
    added = source + "\n\ndef _shortcut(update, leaves, gradients):\n    update(leaves, gradients, 0.1, None)\n"
    more = [place for place in places(added, file) if place not in everywhere]
    assert more == [(file, "_shortcut", "calls an update")]


def _indented(line: str) -> str:
    return "\n".join(f"        {part}" if part == part.lstrip() else f"    {part}" for part in line.split("\n"))
