"""A method of your own, to start from: python -m benchmarks leaderboard digits --method examples/my_method.py:MyMethod"""
from methods.base import Ramped, option, through


class MyMethod(Ramped):
    """Straight-through on a hard threshold: pruned weights get gradients too, here `leak` of them, and may come back."""

    gradient = "shaped"                                 # which weights a step's gradient is computed for (here all): what training FLOPs count
    leak = option(0.1, help="share of the gradient that pruned weights get")

    @classmethod
    def skip(cls, task):
        return "too slow to train here" if task.startswith("imagenet") else None

    def forward(self, theta):
        soft = theta * self.mask + self.leak * theta * ~self.mask
        return through(theta * self.mask, soft)
