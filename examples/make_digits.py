"""Makes ``digits.onnx`` and ``digits-test.npz``: a small CNN on real data, the UCI handwritten digits.

The 1,797 images of 8×8 pixels (Alpaydin and Kaynak, UCI Machine Learning Repository, CC BY 4.0) come with
scikit-learn. Pixels are scaled to 0…1; a quarter of the images, stratified by class, is held out and is the
probe set of the demo. Run ``python examples/make_digits.py``; it takes half a minute on one core.
"""

import io
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).resolve().parent
EPOCHS, BATCH = 60, 64


def network() -> nn.Module:
    """1×8×8 pixels in 0…1 → logits of ten digits; 38,282 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def main() -> None:
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=0)
    torch.manual_seed(0)
    model = network()
    data, asked = torch.from_numpy(x), torch.from_numpy(y)
    steps = EPOCHS * -(-len(data) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data)).split(BATCH):
            shift = [int(s) for s in torch.randint(-1, 2, (2,))]
            loss = nn.functional.cross_entropy(model(data[rows].roll(shift, (2, 3))), asked[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    model.eval()
    with torch.no_grad():
        right = (model(torch.from_numpy(x_test)).argmax(1).numpy() == y_test).mean()
    print(f"accuracy on {len(y_test)} held-out digits: {right:.4f}")
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (data[:2],),
        buffer,
        input_names=["image"],
        output_names=["digit"],
        dynamic_axes={"image": {0: "batch"}, "digit": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    proto = onnx.load_model_from_string(buffer.getvalue())
    for node in proto.graph.node:
        node.doc_string = ""
    (HERE / "digits.onnx").write_bytes(proto.SerializeToString())
    np.savez_compressed(HERE / "digits-test.npz", images=x_test, labels=y_test.astype(np.int64))


if __name__ == "__main__":
    main()
