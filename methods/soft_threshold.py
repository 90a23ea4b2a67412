"""Soft threshold reparameterisation (Kusupati et al. 2020)."""
import math

import torch
from torch import nn

from methods.base import Sparsifier, option
from methods.st3 import ST3


class STR(ST3):
    """STR as ST-3's figures have it: global threshold from the cubic schedule, gradients only to the survivors."""

    name = "str"
    straight_through = option(False, True)
    rescale = option("off", "smoothed", "paper")


RECIPE = dict(epochs=100, batch_size=256, lr=0.256, momentum=0.875, schedule="cosine", label_smoothing=0.1, clip=0.0, bn_momentum=0.1)


class STROriginal(Sparsifier):
    """A learned threshold sigmoid(a) in each layer; the sparsity emerges from the start `a0` and the weight decay (Kusupati et al. 2020)."""

    name = "str_original"
    exact = False
    original = {"imagenet": dict(RECIPE, decay=2.251757813e-5),  # 90.23 % of ResNet-50
                "imagenet-mobilenetv1": dict(RECIPE, a0=-12800.0, decay=3.751757813e-5)}  # 89.01 %
    a0 = option(-3200.0, least=-math.inf, help="start of a")
    decay = option(0.0, help="weight decay λ of weights, a and all else, which decides the sparsity; 0: the recipe's")

    @classmethod
    def skip(cls, task):
        return "its a0 and decay are known for ImageNet alone, and leave a dense network here" if task.startswith("cifar") else None

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.a = nn.Parameter(torch.full((len(layout.sizes),), self.a0))

    @torch.no_grad()
    def forget(self, run):
        super().forget(run)
        self.a.fill_(self.a0)

    def start(self, run, cycle):
        for group in run.optimizer.param_groups if self.decay else ():
            group["weight_decay"] = self.decay
        self.after_step(run)

    def thresholds(self):
        """sigmoid(a) of each weight's layer, (N,)."""
        return self.layout.spread_layers(self.a.sigmoid())

    def forward(self, theta):
        return theta.sign() * torch.relu(theta.abs() - self.thresholds())

    def after_step(self, run):
        self.repeated(self.renew, run.theta)

    @torch.no_grad()
    def renew(self, theta):
        self.set_mask(theta.abs() > self.thresholds())
