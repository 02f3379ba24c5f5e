"""Convert ONNX operators to torch functions: one file per family, each operator at every opset version it exists in.

A converter is called once, while the graph is built, and returns the function that runs every time::

    @op("Pad")
    def pad(node: Node) -> Function:
        amounts = node.ints(1) if node.version >= 11 else node.attr("pads")
        ...
        return lambda x, value=None: F.pad(x, order, mode, value)

Everything that is known at build time (attributes, axes, shapes, slice bounds, constants) is worked out in
the converter, as plain Python numbers; the function does tensor arithmetic alone. See `Node` for what a
converter may ask, and for which inputs reach the function.
"""
