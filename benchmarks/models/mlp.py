"""A multi-layer perceptron with two hidden layers, whose width shows what sparse storage gains."""

from torch import nn

from .init import fan_in_uniform, scaled


def mlp(classes: int = 10, width: float = 1, inputs: int = 3 * 32 * 32) -> nn.Module:
    """Two hidden layers of 1,024 · `width` ReLUs, all with bias. Input (B, 3, 32, 32), output (B, classes).

    4,204,544 prunable weights in 3 tensors, 2,058 biases, as many MACs as weights (10 classes). Raises ValueError where `width`
    gives a fractional layer. Not from a paper.
    """
    hidden, = scaled([1024], width)
    return fan_in_uniform(nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                                        nn.Linear(hidden, classes)))


def mlp_digits(classes: int = 10, width: float = 1) -> nn.Module:
    """`mlp` for 8x8 digits. Input (B, 1, 8, 8), output (B, classes). 1,124,352 prunable weights (10 classes)."""
    return mlp(classes, width, inputs=64)
