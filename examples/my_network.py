"""`python examples/my_network.py [METHOD] [SPARSITY]`: a network and a loop of one's own, here on scikit-learn's digits, in seconds.

What changes against plain PyTorch are the lines with SparseModel and Training.
"""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from methods import SparseModel, Training

EPOCHS = 20


def main():
    parser = argparse.ArgumentParser(description="A network of one's own, trained sparsely on digits.")
    parser.add_argument("method", nargs="?", default="gmp", help="one of those of `python -m benchmarks options`, of one training cycle")
    parser.add_argument("sparsity", nargs="?", default=0.9, type=float, help="share of zeros among the weights")
    args = parser.parse_args()

    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y))
    train, test = random_split(data, [0.8, 0.2])
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    net = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
                        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))
    try:
        model = SparseModel(net, args.method, args.sparsity)
    except ValueError as error:  # an unknown method, a sparsity that is none
        parser.exit(2, f"error: {error}\n")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    training = Training(model, optimizer, EPOCHS, steps_per_epoch=len(loader), batches=lambda n: [batch for _, batch in zip(range(n), loader)])
    if len(training.cycles) > 1:
        parser.exit(2, f"error: {args.method} trains more than once; examples/README.md has the loop for such methods\n")
    training.start()
    for epoch in range(EPOCHS):
        for images, labels in loader:
            nn.functional.cross_entropy(model(images), labels).backward()
            training.update((images, labels))
        schedule.step()

    plain = model.export().eval()  # an ordinary nn.Sequential with exact zeros
    images, labels = test[:]
    with torch.no_grad():
        accuracy = (plain(images).argmax(1) == labels).float().mean().item()
    print(f"{args.method}: {100 * accuracy:.1f} % of the test images right, {model.layer_nnz().sum():,} of {model.layout.size:,} weights left")


if __name__ == "__main__":
    main()
