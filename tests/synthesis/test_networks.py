"""Generators and the encoder: shapes, published sizes, what their heads promise, and the way of the gradient."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onnxcake.core.rng import Key
from onnxcake.synthesis.generator_networks import (
    CentreCrop,
    Encoder,
    Head,
    SigmoidToRange,
    encoder,
    generator,
    initialise_normal,
)
from onnxcake.teacher.signature import Signature

IMAGES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 33, 47), (2, 4, 200), (1, 2, 3), (4, 1, 1), (3, 5, 1)]
SIGNALS = [(2, 16), (1, 1000), (3, 1), (1, 37)]
VECTORS = [(5,), (64,), (1,)]
OTHERS = [(2, 3, 4, 5)]
SHAPES = IMAGES + SIGNALS + VECTORS + OTHERS
HEADS: list[Head] = ["tanh_norm", "norm", "range"]


def inputs(shape: tuple[int, ...], **values: Any) -> Signature:
    return Signature("x", shape, "y", "logits", 4, **values)


def ranged(shape: tuple[int, ...]) -> Signature:
    """Raw values in 0 … 255, normalised outside the file by channel, in standard units of another make."""
    channels = shape[0]
    return inputs(
        shape,
        range=(0.0, 255.0),
        mean=tuple(100.0 + channel for channel in range(channels)),
        std=tuple(50.0 + 10 * channel for channel in range(channels)),
        location=(0.1,),
        deviation=(0.7,),
    )


def made(signature: Signature, *, latent: int = 6, width: int = 4, number: int = 0, **more: Any) -> nn.Module:
    with Key(0).at("network", number).as_default():
        return generator(signature, latent=latent, width=width, **more)


def noise(*shape: int, number: int = 0) -> Tensor:
    return torch.randn(shape, generator=Key(1).at("noise", number).generator())


def convolutions(network: nn.Module) -> list[tuple[int, int]]:
    return [
        (layer.in_channels, layer.out_channels)
        for layer in network.modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d)
    ]


# --- any shape ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_samples_have_the_inputs_shape_and_the_gradient_comes_through(shape: tuple[int, ...], head: Head) -> None:
    network, z = made(ranged(shape), head=head), noise(5, 6).requires_grad_(True)
    x = network(z)
    assert x.shape == (5, *shape) and x.dtype == torch.float32 and x.isfinite().all()
    leaves = [z, *network.parameters()]
    gradients = torch.autograd.grad(x, leaves, noise(*x.shape, number=1))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0].abs().amax(1).min() > 0, "every sample's z counts"
    weights = [g for g, leaf in zip(gradients[1:], leaves[1:], strict=True) if leaf.dim() > 1]
    assert all(gradient.abs().max() > 0 for gradient in weights)


def test_the_size_of_imagenet() -> None:
    network = made(inputs((3, 224, 224), range=(0.0, 1.0)), head="range")
    start = network[1]
    assert isinstance(start, nn.Unflatten) and start.unflattened_size == (8, 7, 7)
    assert sum(isinstance(layer, nn.Upsample) for layer in network) == 5
    assert not any(isinstance(layer, CentreCrop) for layer in network)
    z = noise(2, 6).requires_grad_(True)
    x = network(z)
    assert x.shape == (2, 3, 224, 224)
    assert torch.autograd.grad(x.sum(), z)[0].isfinite().all()


@pytest.mark.parametrize(
    ("shape", "start", "doublings", "cropped"),
    [
        ((3, 32, 32), (8, 8), 2, False),
        ((1, 28, 28), (7, 7), 2, False),
        ((1, 8, 8), (2, 2), 2, False),
        ((3, 64, 64), (8, 8), 3, False),
        ((3, 33, 47), (5, 6), 3, True),
        ((2, 4, 200), (2, 7), 5, True),
        ((1, 1000), (8,), 7, True),
        ((2, 16), (4,), 2, False),
        ((3, 1), (1,), 0, False),
    ],
    ids=str,
)
def test_the_first_map_is_small_and_doubled_until_it_is_large_enough(
    shape: tuple[int, ...], start: tuple[int, ...], doublings: int, cropped: bool
) -> None:
    network = made(inputs(shape))
    assert isinstance(network[1], nn.Unflatten) and network[1].unflattened_size == (8, *start)
    assert sum(isinstance(layer, nn.Upsample) for layer in network) == doublings
    assert any(isinstance(layer, CentreCrop) for layer in network) == cropped


def test_sides_that_need_fewer_doublings_are_doubled_last() -> None:
    """So that a map stays small for as long as it can."""
    network = made(inputs((2, 4, 200)))
    factors = [layer.scale_factor for layer in network if isinstance(layer, nn.Upsample)]
    assert factors == [(1.0, 2.0)] * 4 + [(2.0, 2.0)]


def test_cropping_keeps_the_middle() -> None:
    x = torch.arange(2 * 5 * 6.0).view(1, 2, 5, 6)
    assert torch.equal(CentreCrop((3, 4))(x), x[:, :, 1:4, 1:5])
    assert torch.equal(CentreCrop((4, 6))(x), x[:, :, 0:4])
    assert torch.equal(CentreCrop((3,))(x[0]), x[0, :, :, 1:4]), "a signal"


# --- as published ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_parameters_at_32_by_32_are_the_published_ones(head: Head) -> None:
    """Linear(100, 128·8·8), BN(128), Conv(128, 128), BN, Conv(128, 64), BN, Conv(64, 3), and what the head has."""
    network = made(ranged((3, 32, 32)), latent=100, width=64, head=head)
    found = [tuple(parameter.shape) for parameter in network.parameters()]
    hidden = [] if head == "range" else [[(128,)], [(64,)]]
    expected = [
        *[(8192, 100), (8192,), (128,), (128,)],
        *[(128, 128, 3, 3), *(hidden[0] if hidden else []), (128,), (128,)],
        *[(64, 128, 3, 3), *(hidden[1] if hidden else []), (64,), (64,)],
        *[(3, 64, 3, 3), (3,)],
        *([(3,), (3,)] if head == "norm" else []),
    ]
    assert found == expected


def test_order_of_layers_at_32_by_32() -> None:
    names = [type(layer).__name__ for layer in made(inputs((3, 32, 32)), head="norm")]
    block = ["Upsample", "Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert names == ["Linear", "Unflatten", "BatchNorm2d", *block, *block, "Conv2d", "BatchNorm2d"]


def test_channels_at_224_by_224_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = generator(inputs((3, 224, 224)), latent=100, width=64)
    assert convolutions(network) == [(128, 128), (128, 128), (128, 64), (64, 64), (64, 64), (64, 3)]


@pytest.mark.parametrize("shape", [(3, 32, 32), (20,)], ids=str)
def test_dafls_epsilon_is_that_of_hidden_layers_alone(shape: tuple[int, ...]) -> None:
    """Its ``BatchNorm2d(128, 0.8)`` sets ε, not the momentum; the first BatchNorm and the last keep 1e-5."""

    def epsilons(**more: Any) -> list[float]:
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        return [layer.eps for layer in made(inputs(shape), **more).modules() if isinstance(layer, norms)]

    first = [1e-5] if len(shape) > 1 else []
    assert epsilons(epsilon=0.8) == [*first, 0.8, 0.8, 1e-5]
    assert epsilons() == [*first, 1e-5, 1e-5, 1e-5]


def test_upsampling_repeats_its_neighbours() -> None:
    up = next(layer for layer in made(inputs((1, 8, 8))) if isinstance(layer, nn.Upsample))
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0], [3.0, 3.0, 4.0, 4.0]]
    assert up(x).tolist() == [[expected]]


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    network = made(inputs((3, 32, 32)), width=8, spectral_norm=True)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            for _ in range(50):
                weight = layer.weight.detach()  # each look is a step of its power iteration
            assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
    plain = [layer.weight for layer in made(inputs((3, 32, 32)), width=8) if isinstance(layer, nn.Conv2d)]
    assert all(abs(torch.linalg.matrix_norm(weight.flatten(1), 2).item() - 1) > 0.05 for weight in plain)


# --- heads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40), (6,)], ids=str)
def test_tanh_norm_gives_standard_units_in_every_channel(shape: tuple[int, ...]) -> None:
    x = made(inputs(shape), head="tanh_norm")(noise(64, 6)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.zeros(shape[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var(1, correction=0), torch.ones(shape[0]), atol=2e-3, rtol=0)


def test_tanh_stands_before_the_norm() -> None:
    network = made(inputs((1, 8, 8)), head="tanh_norm")
    assert isinstance(network[-2], nn.Tanh) and isinstance(network[-1], nn.BatchNorm2d) and not network[-1].affine
    network[-3].weight.data *= 1e4  # saturated: two values are left, one of each sign
    x = network(noise(16, 6))
    low, high = x.min(), x.max()
    middle = ((x > low + 0.01) & (x < high - 0.01)).double().mean()
    assert middle < 0.01


def test_norm_learns_its_scale() -> None:
    network = made(inputs((2, 8, 8)), head="norm")
    last = network[-1]
    assert isinstance(last, nn.BatchNorm2d) and last.affine
    with torch.no_grad():
        last.weight.copy_(torch.tensor([3.0, 0.5]))
        last.bias.copy_(torch.tensor([-1.0, 2.0]))
    x = network(noise(64, 6)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(x.mean(1), torch.tensor([-1.0, 2.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(1, correction=0), torch.tensor([3.0, 0.5]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("shape", [(3, 12, 12), (2, 40), (6,), (2, 3, 4, 5)], ids=str)
def test_range_stays_in_bounds_however_large_its_weights(shape: tuple[int, ...]) -> None:
    signature = ranged(shape)
    network, bounds = made(signature, head="range"), signature.bounds()
    assert bounds is not None
    low, high = bounds
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)][-1]
    for factor in (1.0, 1e6):
        with torch.no_grad():
            last.weight *= factor
        x = network(noise(32, 6))
        assert (x >= low).all() and (x <= high).all()
    spread = (x.amax(0) - x.amin(0)) / (high - low)
    assert spread.max() > 0.999, "and reaches them"
    raw = signature.to_raw(signature.to_input(x))
    assert raw.min().item() == pytest.approx(0, abs=1e-2) and raw.max().item() == pytest.approx(255, abs=1e-2)


def test_the_middle_of_the_range() -> None:
    stretch = SigmoidToRange(torch.tensor([[-1.0], [0.0]]), torch.tensor([[3.0], [10.0]]))
    x = torch.tensor([[[0.0, math.log(3)], [0.0, -math.log(3)]]])  # sigmoids 1/2, 3/4, 1/2, 1/4
    torch.testing.assert_close(stretch(x), torch.tensor([[[1.0, 2.0], [5.0, 2.5]]]))


def test_where_no_range_is_known_the_head_normalises() -> None:
    bare, named = made(inputs((3, 16, 16)), head="range"), made(inputs((3, 16, 16)), head="tanh_norm")
    assert torch.equal(bare(noise(4, 6)), named(noise(4, 6)))


def test_the_bounds_are_no_part_of_the_state() -> None:
    """They follow from the teacher; a checkpoint holds what was learnt."""
    state = made(ranged((3, 16, 16)), head="range").state_dict()
    assert not [name for name in state if name.endswith(("low", "high"))]


# --- randomness and training -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16, 16), (9,)], ids=str)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_weights_depend_on_the_key_alone(shape: tuple[int, ...], spectral_norm: bool) -> None:
    first, again, other = (
        made(inputs(shape), number=number, spectral_norm=spectral_norm).state_dict() for number in (0, 0, 1)
    )
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_copy_has_statistics_of_its_own() -> None:
    network = made(inputs((3, 16, 16)))
    twin = copy.deepcopy(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    twin(noise(8, 6))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not torch.equal(twin[2].running_mean, network[2].running_mean)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 16), (7,)], ids=str)
def test_a_generator_learns(shape: tuple[int, ...]) -> None:
    """Samples come closer to a pattern, z fixed, by plain descent."""
    network, z, wanted = made(inputs(shape), head="norm", width=8), noise(16, 6), noise(*shape, number=2)
    losses = []
    for _ in range(6):
        loss = (network(z) - wanted).square().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    assert losses[-1] < 0.9 * losses[0]


def test_gradient_at_z_against_differences() -> None:
    network, z = made(ranged((2, 6, 5)), latent=3, head="range").double(), noise(4, 3).double().requires_grad_(True)
    weight = noise(4, 2, 6, 5, number=3).double()
    (gradient,) = torch.autograd.grad((network(z) * weight).sum(), z)
    small = 1e-6
    for place in range(z.numel()):
        move = torch.zeros(z.numel(), dtype=torch.float64)
        move[place] = small
        with torch.no_grad():
            ahead, behind = ((network(z + sign * move.view_as(z)) * weight).sum() for sign in (1, -1))
        assert gradient.flatten()[place].item() == pytest.approx(((ahead - behind) / (2 * small)).item(), rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 64), (40,)], ids=str)
def test_normal_initialisation_follows_dcgan(shape: tuple[int, ...]) -> None:
    network = made(inputs(shape), latent=64, width=32, head="norm")
    with Key(0).at("normal").as_default():
        initialise_normal(network)
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
            middle = 1.0 if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) else 0.0
            error = 0.02 / math.sqrt(layer.weight.numel())
            assert layer.weight.mean().item() == pytest.approx(middle, abs=5 * error)
            if layer.weight.numel() > 1:
                assert layer.weight.std().item() == pytest.approx(0.02, abs=5 * error)
            assert layer.bias is not None and layer.bias.abs().max() == 0


# --- the encoder -------------------------------------------------------------------------------------------


def encoding(shape: tuple[int, ...], *, latent: int = 3, width: int = 4, **more: Any) -> Encoder:
    with Key(0).at("encoder").as_default():
        return encoder(inputs(shape), latent=latent, width=width, **more)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_encoder_gives_a_distribution_for_each_sample(shape: tuple[int, ...]) -> None:
    network, x = encoding(shape), noise(5, *shape).requires_grad_(True)
    mean, log_variance = network(x)
    assert mean.shape == log_variance.shape == (5, 3)
    assert mean.isfinite().all() and log_variance.isfinite().all() and not torch.equal(mean, log_variance)
    (gradient,) = torch.autograd.grad((mean * noise(5, 3)).sum(), x)
    assert gradient.isfinite().all() and gradient.flatten(1).abs().amax(1).min() > 0


def test_the_encoder_of_pre_dfkd_at_32_by_32() -> None:
    """64, 128 and 128 channels down to 4×4: 2048 features."""
    network = encoding((3, 32, 32), latent=10, width=64, epsilon=0.8)
    assert convolutions(network) == [(3, 64), (64, 128), (128, 128)]
    assert network.mean.weight.shape == network.log_variance.weight.shape == (10, 2048)
    assert {layer.eps for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.8}


def test_a_large_image_is_brought_down_too() -> None:
    with torch.device("meta"):
        network = encoder(inputs((3, 224, 224)), latent=7)
        mean, _ = network(torch.empty(2, 3, 224, 224))
    assert mean.shape == (2, 7) and network.mean.in_features == 128 * 4 * 4


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 16), (12,)], ids=str)
def test_generator_and_encoder_learn_to_reconstruct(shape: tuple[int, ...]) -> None:
    signature, x = inputs(shape), noise(16, *shape)
    there, back = encoding(shape, latent=6), made(signature, latent=6, head="norm")
    parameters = [*there.body.parameters(), *there.mean.parameters(), *back.parameters()]
    losses = []
    for _ in range(30):
        loss = (back(there(x)[0]) - x).abs().mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.3 * gradient
    assert losses[-1] < 0.85 * losses[0]
