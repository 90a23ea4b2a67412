"""Combinations that nobody has published: examples of what the interface makes a few lines. Ours."""
from methods.base import option
from methods.beyond.feather import Feather
from methods.cycles import LRR, LRRST3
from methods.granet import GraNet
from methods.gse import GSE


class LRRFeather(LRR, Feather):
    """LRR's levels with Feather's forward pass; the dense weights survive, as in LRR with ST-3."""

    name = "lrr_feather"
    dense_first = False
    theta = option("1", "0.5", help="factor on the gradients of pruned weights, at all levels alike: the row of one does not depend on the last")
    ramp_start = ramp_end = ramp_power = ramp_granularity = 0
    start = LRRST3.start

    def after_step(self, run):
        self.refresh(run.theta, self.level(run.cycle))


class GraNetGSE(GraNet):
    """GraNet's cubic pruning, with GSE's growth: by the gradients of sampled connections instead of all."""

    name = "granet_gse"
    noise, drop_rounding, regenerate = 0.0, "floor", True
    gamma = GSE.gamma
    update, grown_and_pruned, sample, explore, growth_batches = GSE.update, GSE.grown_and_pruned, GSE.sample, GSE.explore, GSE.growth_batches
