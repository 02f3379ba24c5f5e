"""Replace the language of text normalisation where the host does not have it."""

from __future__ import annotations

import onnx
from onnx import helper

from .walk import nodes

KNOWN = "C.UTF-8"  # changes the case of all letters, and is a part of the C library


def with_known_locale(model: bytes) -> bytes:
    """Set the locale that every host has in each StringNormalizer; the file's default is en_US."""
    proto = onnx.ModelProto.FromString(model)
    for node in nodes(proto):
        if node.op_type == "StringNormalizer" and not node.domain:
            kept = [attribute for attribute in node.attribute if attribute.name != "locale"]
            kept = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in kept]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("locale", KNOWN)])
    content: bytes = proto.SerializeToString()
    return content
