"""Optimal brain damage with the diagonal Fisher matrix, the simple form of WoodFisher (Singh & Alistarh, NeurIPS 2020)."""
import torch

from methods.base import option
from methods.beyond.after_dense import AfterDense


class FisherDiag(AfterDense):
    """Gradual pruning, once an epoch, of the weights that the loss needs least: of the smallest w² (F + λ) (Singh & Alistarh 2020)."""

    name, needs_batches = "fisher_diag", True
    threshold = option("topk_exact", "quantile_lerp", "kth_value")
    ramp_granularity = "step"  # the ramp is read only at the few steps that prune
    every = option(1, least=1, help="epochs between two prunings")
    first = option(0.05, most=1, help="sparsity of the first pruning")
    gradients = option(10, least=1, help="mini-batch gradients that F is the mean square of")
    damping = option(1e-5, help="λ, added to F in w² (F + λ)")

    def scheduled(self, run, done):
        if run.cycle < self.pretrain or done < self.ramp_start * run.total_steps:
            return 0.0
        first = min(self.first, self.sparsity)
        return first + (self.sparsity - first) * self.ramped(run, done)

    def refresh(self, theta, sparsity):
        """Nothing is pruned before the first gradients."""

    def after_step(self, run):
        done = run.step + 1
        if done % (self.every * run.steps_per_epoch) == 0 or done == run.total_steps:
            kept, _ = self.kept(self.scheduled(run, done))
            if kept < int(self.mask.sum()):
                self.prune(run, kept)

    def saliency(self, run):
        """w² (F + λ), (N,). Normalisation layers run in evaluation mode, so that their statistics stay as they are."""
        batches = run.batches(self.gradients)
        norms = [m for m in run.model.net.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase) and m.training]
        for norm in norms:
            norm.eval()
        try:
            fisher = sum(run.gradient(run.theta * self.mask, [batch]).square() for batch in batches) / len(batches)
        finally:
            for norm in norms:
                norm.train()
        return run.theta.square() * (fisher + self.damping)
