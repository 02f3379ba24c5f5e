"""Word the remedies that several errors about a teacher's file share.

Whoever has a file often has nothing else: it came from a vendor. So what can be done with the file itself comes first,
and a new export only for those who have the network that the file was made from.
"""

from __future__ import annotations

SOUND = "Copy the file again, or ask its vendor for a sound one."
SMALLER = "Give a smaller teacher, or ask its vendor for one with fewer sub-graphs within sub-graphs."
BUG = "This is a fault of onnxcake's conversion, not of the file: please report it with the node's name."
BEFORE = (
    "Choose a value before it that holds the class scores, with --output NAME; without one, the file cannot be a "
    "teacher."
)
SIZES = (
    "Say the sizes that the file leaves open with --shape, or hold the input that they come from with "
    "--hold NAME=VALUE. Or choose a value before it that holds the class scores, with --output NAME."
)


RUNS = (
    "Upgrade onnxruntime, or ask the vendor of the file which version runs it. Or choose a value before that node that "
    "holds the class scores, with --output NAME."
)
OURS = (
    "This is a bug of onnxcake: please report it. Until then, name another student: -o student.architecture=mlp. What "
    "is finished is kept."
)
SIZED = "Say with --shape, batch included, at what sizes the file is run."


def around(how: str, what: str = "it") -> str:
    """Say how to get around a node, and at last, for those who can, how to export the network.

    Args:
        how: it is to be exported, as "without this operator".
        what: the node, in words.
    """
    return (
        f"Choose a value before {what} that holds the class scores, with --output NAME; or, if you have the network "
        f"that the file was made from, export it {how}."
    )
