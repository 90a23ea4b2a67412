"""Counts how often each weight switches between active and zero while it trains (ST-3, figure 6)."""
import torch

GROUPS = 4  # quarters of the epochs (40 of 160 in the paper)


class Switches:
    """Counts, for each of `size` weights and each quarter of a cycle's epochs, the steps that changed its mask.

    `counts` (GROUPS, size), int32, stays on the device, and the CPU never waits for it. If a run has several cycles, their counts are added up.
    """

    def __init__(self, size, device="cpu"):
        self.counts = torch.zeros(GROUPS, size, dtype=torch.int32, device=device)

    @staticmethod
    def group(epoch, epochs):
        """The quarter, from 0, that an epoch of a cycle belongs to."""
        return GROUPS * epoch // epochs

    def add(self, group, before, after):
        """Counts the weights (size,) whose mask differs after a step."""
        self.counts[group] += before ^ after

    def lines(self, schedule, mask):
        """Lines of `switches.csv`: for each quarter, final state and number of switches (including 0), the number of weights."""
        found = []
        for group, counts in enumerate(self.counts):
            for state, chosen in (("zero", ~mask), ("active", mask)):
                values, weights = counts[chosen].unique(return_counts=True)
                found += [dict(schedule=schedule, group=group, final_state=state, switches=s, weights=w)
                          for s, w in zip(values.tolist(), weights.tolist())]
        return found


def schedule_of(method):
    """"cubic" for a sparsity that rises along ST-3's ramp, "fixed" for all else: one from the first step on, or a method's own schedule."""
    return "cubic" if getattr(method, "ramp_power", 0) else "fixed"
