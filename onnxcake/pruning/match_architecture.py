"""Cut the teacher to the architecture of another network of its family: as many channels, units and blocks.

Such a student is a network that people know by name, and begins with the teacher's weights all the same: weights chosen
out of a larger network of the family are a better start than noise (Xu et al., *Initializing Models with Larger Ones*,
ICLR 2024; Samragh et al., *Weight subcloning*, 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from .choices import Families, Numbers
from .dependencies import Followed
from .depth import Answers, blocks, without, without_least
from .folded_graph import FoldedGraph
from .goal import NothingToCut, Shape
from .indices import Axis


def matrices(graph: FoldedGraph) -> dict[str, Shape]:
    """Return the shapes of convolutions' and linear layers' weights, in order, by name, outputs first."""
    return {name: _outputs_first(node, place, graph.constants[name].shape) for name, node, place in _weighted(graph)}


def drop_blocks(graph: FoldedGraph, want: Sequence[Shape], answers: Answers, name: str) -> FoldedGraph:
    """Remove as many residual blocks as the other network lacks, those first that matter least.

    Args:
        want: the shapes of the other network's weights, as `matrices` gives them.
        answers: a model's, always to the same inputs.
        name: what to call the teacher in messages.

    Raises:
        NothingToCut: if no choice of blocks leaves weights that can be cut to these shapes.
    """
    while len(matrices(graph)) > len(want):
        found = [block for block in blocks(graph) if _may_become(matrices(without(graph, [block])), want)]
        if not found:
            raise _other_family_error(name, f"no choice of its blocks leaves the {len(want)} layers wanted")
        graph = without_least(graph, found, answers)
    return graph


def dropped(followed: Followed, found: Families, worth: Numbers, want: Sequence[Shape], name: str) -> Axis:
    """Select the atoms to drop so that the weights have the shapes wanted.

    Args:
        worth: of each atom; the least fall.
        want, name: as for `drop_blocks`.

    Raises:
        NothingToCut: if that cannot be reached.
    """
    graph = followed.graph
    shapes = matrices(graph)
    if len(shapes) != len(want) or not _may_become(shapes, want):
        raise _other_family_error(
            name, f"it has {_list_shapes(shapes.values())}, of which there is no choosing {_list_shapes(want)}"
        )
    owner = {atom: number for number, atoms in enumerate(found.members) for atom in atoms.tolist()}
    counts = [len(atoms) for atoms in found.members]
    for (weight, node, place), shape in zip(_weighted(graph), want, strict=True):
        for axis, size in zip(followed.axes[weight], _outputs_first(node, place, shape), strict=True):
            families = {owner[atom] for atom in np.unique(followed.table[axis]).tolist() if atom in owner}
            if len(families) == 1:  # one of the factors of an axis, such as what each head holds; others stay
                family = families.pop()
                counts[family] = max(1, round(size / len(axis) * len(found.members[family])))
    fallen = found.dropped(worth, counts)
    stays = followed.stays(fallen)
    for (weight, node, place), shape in zip(_weighted(graph), want, strict=True):
        left = _outputs_first(node, place, tuple(int(stays[axis].sum()) for axis in followed.axes[weight]))
        if left != shape:
            cut = f"can be cut to {_list_shapes([left])}, not {_list_shapes([shape])}"
            raise _other_family_error(name, f"a weight of {_list_shapes([shapes[weight]])} {cut}")
    return fallen


def _weighted(graph: FoldedGraph) -> list[tuple[str, onnx.NodeProto, int]]:
    """List each such weight, the first node that reads it, and its index among that node's inputs."""
    found: dict[str, tuple[str, onnx.NodeProto, int]] = {}
    for node in graph.nodes:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            for place, name in enumerate(node.input[:2]):
                if name in graph.constants and graph.constants[name].ndim > 1:
                    found.setdefault(name, (name, node, place))
    return list(found.values())


def _outputs_first(node: onnx.NodeProto, place: int, shape: Shape) -> Shape:
    """Return a weight's shape with outputs before inputs, as torch has it; called twice, it returns the first."""
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    stored_so = node.op_type == "Conv" or place == 0 or turned
    return shape if stored_so else (*shape[:-2], shape[-1], shape[-2])


def _may_become(have: Mapping[str, Shape], want: Sequence[Shape]) -> bool:
    """Tell whether weights of these shapes, or some of them in this order, can be cut to those of others."""
    left = iter(have.values())
    return all(any(_can_be_cut_to(large, small) for large in left) for small in want)


def _can_be_cut_to(large: Shape, small: Shape) -> bool:
    """Tell whether a weight can be cut to a shape: fewer channels or units, the same kernel."""
    fewer = len(large) == len(small) and all(s <= b for b, s in zip(large[:2], small[:2], strict=True))
    return fewer and large[2:] == small[2:]


def _list_shapes(shapes: Iterable[Shape]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)


def _other_family_error(name: str, why: str) -> NothingToCut:
    return NothingToCut(
        f"it is no larger network of the same family: {why}",
        where=name,
        remedy="Train that architecture from noise: onnxcake extract -o student.architecture=NAME.",
    )
