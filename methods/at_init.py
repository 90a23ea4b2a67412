"""Pruning at initialisation: one mask, found before the first step."""
from unittest.mock import patch

import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from methods.allocation import count
from methods.base import Sparsifier, option
from methods.processes import mean_of_processes
from methods.ranking import keep
from methods.run import arguments


class AtInit(Sparsifier):
    """Keeps the weights of the largest score."""

    n_batches = option(0, help="training batches to score on; 0: `scoring_batches` of Training (in the suite: ten images a class)")
    restore_bn = option(False, help="bring back the running statistics that the scoring passes moved")
    count = option("exact", "literal", help="weights that are kept: as many as the sparsity says, rounded, or as in released code, cut off")

    def final_budget(self):
        return self.kept(self.sparsity)

    def kept(self, sparsity):
        """Weights kept at a sparsity; literal: rounded down, as in GSE's code."""
        return count(self.layout.size, sparsity) if self.count == "exact" else int(self.layout.size * (1 - sparsity))

    def forget(self, run):
        """`start` scores all weights."""

    def start(self, run, cycle):
        if self.restore_bn:
            run.snapshot("start")
        try:
            self.set_mask(self.choose(run))
        except torch.OutOfMemoryError:  # not the network's fault
            raise
        except RuntimeError as error:  # for example an operation without a second derivative
            raise ValueError(f"{self.called} cannot score this network: {str(error).splitlines()[0]}") from error
        if self.restore_bn:
            run.rewind("start")
            run.snapshots.pop("start")
        run.clear(~self.mask)

    def choose(self, run):
        """The mask (N,) of the `budget` largest scores. Raises ValueError or RuntimeError for a network that cannot be scored."""
        score = self.score(run, run.batches(self.n_batches or None)).detach()
        self.check(score)
        return keep(score, self.budget)

    def score(self, run, batches):
        """Scores of the weights (N,), from training batches; the largest are kept."""
        raise NotImplementedError

    def check(self, score):
        """Raises ValueError unless all scores (N,) are finite, and one at least is not 0."""
        if not torch.isfinite(score).all():
            raise ValueError(f"{self.called} cannot score this network: a score is not finite")
        if not score.any():
            raise ValueError(f"{self.called} cannot score this network: all scores are 0: does criterion= of Training fit its output, "
                             "or does a layer start at 0?")


class SNIP(AtInit):
    """Connection sensitivity |g·w| (Lee et al. 2019)."""

    name = "snip"

    def score(self, run, batches):
        return (run.gradient(run.theta, batches) * run.theta).abs()

# its recipe for ResNet-32
GRASP = dict(epochs=160, batch_size=128, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True, milestones=(80 / 160, 120 / 160), clip=0.0,
             validation=False, bn_momentum=0.1)


class GraSP(AtInit):
    """Preservation of gradient flow: the largest w·Hg are kept (Wang et al. 2020)."""

    name = "grasp"
    original = {"cifar10": dict(GRASP, augmentation="zero"), "cifar100": dict(GRASP, augmentation="gse")}
    temperature = option(200.0, least=1e-3, help="divides the logits")

    def kept(self, sparsity):
        """Weights kept at a sparsity; literal: as in the original, which removes int(N s) − 1: of the int(N s) worst it keeps the best."""
        size = self.layout.size
        return super().kept(sparsity) if self.count == "exact" else min(size - int(size * sparsity) + 1, size)

    def score(self, run, batches):
        weights = run.theta.detach().requires_grad_()

        def gradient(x, y, create_graph):
            return torch.autograd.grad(run.loss(weights, x, y, self.temperature), weights, create_graph=create_graph)[0]

        with TwiceDifferentiable(), sdpa_kernel(SDPBackend.MATH):
            total = mean_of_processes(sum(gradient(x, y, False) for x, y in batches), run.group)
            change = sum(torch.autograd.grad(gradient(x, y, True) @ total, weights)[0] for x, y in batches)
            return weights * mean_of_processes(change, run.group)


class TwiceDifferentiable(TorchFunctionMode):
    """Operations whose fused form has no second derivative are computed step by step."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        if getattr(func, "__name__", "") not in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            return func(*args, **(kwargs or {}))
        with torch.backends.cudnn.flags(enabled=False):  # this resets cuDNN's other flags, too
            return func(*args, **(kwargs or {}))


NEGATIVE = 1e-9  # SynFlow's scores are positive; below this share of the largest, one is negative by more than rounding


class SynFlow(AtInit):
    """Iterative synaptic flow, without data (Tanaka et al. 2020).

    No layer of a chain is left empty; one that has another path beside it, such as a shortcut's 1×1 convolution, may be.
    """

    name = "synflow"
    n_batches = restore_bn = None  # unused: it sees no data and scores a copy of the network
    rounds = option(100, least=1, help="rounds of scoring; after k of R the density is (1 - s)^(k/R) (Tanaka et al. 2020, algorithm 1)")

    @torch.enable_grad()
    def choose(self, run):
        net = run.model.plain().double().eval()
        for value in [*net.parameters(), *net.buffers()]:
            value.requires_grad_(False).copy_(value.abs() if value.is_floating_point() else value)
        args, kwargs = tree_map_only(torch.Tensor, self.ones, arguments(run.batches(1)[0][0]))
        magnitude, mask = run.theta.detach().double().abs(), torch.ones_like(self.mask)
        for k in range(1, self.rounds + 1):
            weights = (magnitude * mask).requires_grad_()
            with Homogeneous():
                output = functional_call(net, self.layout.named_views(weights), args, kwargs, tie_weights=False)
            flows = [value.sum() for value in tree_leaves(output) if torch.is_tensor(value)]
            if not flows:
                raise ValueError(f"{self.called} cannot score this network: it finds no tensor in its output of type {type(output).__name__}")
            flow = sum(flows)
            # the flow is divided by its value against overflow, which does not change the ranking (GSE)
            score, = torch.autograd.grad(flow / flow.detach(), weights)
            self.check(flow.detach()), self.check(score)
            left = self.kept(1 - (1 - self.sparsity) ** (k / self.rounds))
            score = (score * weights).detach()
            if not score.min() >= -NEGATIVE * score.max():
                raise ValueError(f"{self.called} cannot score this network: it has negative flow, from something that subtracts "
                                 "or normalises over features")
            mask = keep(score.masked_fill(~mask, -1), left if k < self.rounds else self.budget)
        return mask

    @staticmethod
    def ones(x):
        """Ones in the shape of one sample; token ids stay as they are, because what flows in is their embeddings."""
        return torch.ones_like(x[:1], dtype=torch.float64) if x.is_floating_point() else x[:1]


class Homogeneous(TorchFunctionMode):
    """Normalisation over features, GELU, softmax and dropout become the identity, and bounded ReLUs become ReLU, so that flow is conserved
    (GSE's code for ViT). In attention, rows of scores are divided by their sums."""

    IDENTITY = (F.layer_norm, F.group_norm, F.instance_norm, F.rms_norm, torch.rms_norm, F.gelu, F.softmax, torch.softmax, torch.Tensor.softmax,
                F.log_softmax, torch.log_softmax, torch.Tensor.log_softmax, F.dropout)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.IDENTITY:
            return args[0]
        if func in (F.hardtanh, F.relu6):  # they bound the flow, which grows with every layer
            return F.relu(args[0])
        if func is F.scaled_dot_product_attention:
            return attention(*args[:3])
        if func is F.multi_head_attention_forward:  # of nn.MultiheadAttention; what it calls does not come here
            with patch.multiple(F, scaled_dot_product_attention=lambda q, k, v, *_, **__: attention(q, k, v), softmax=lambda x, dim: shares(x)):
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attention(q, k, v):
    """Attention without softmax, masks and dropout: q (…, L, d), k (…, S, d), v (…, S, e)."""
    return shares(q @ k.transpose(-2, -1)) @ v


def shares(scores):
    """Rows divided by their sums, which count as constants, so that they sum to one, as softmax's do. Without any softmax, as in GSE's code,
    attention is cubic in its input, and four layers overflow float64."""
    scores = scores.clamp_min(0)  # a mask's -inf
    return scores / scores.detach().sum(-1, keepdim=True).clamp_min(1e-300)
