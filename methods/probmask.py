"""ProbMask: keep-probabilities learned under a global budget (Zhou et al. 2021)."""
import math

import torch
from torch import nn

from methods.base import Cycle, Sparsifier, option, ramp
from methods.ranking import keep
from methods.warn import warn


# form=st3code: the budget falls as ST-3's does; one Bernoulli mask is drawn, with which ten epochs of 160 are trained
ST3_CODE = dict(ramp_granularity="step", ramp_start=5 / 160, ramp_end=80 / 160, trials=1, sampling="bernoulli", finetune=10 / 160)


class ProbMask(Sparsifier):
    """Weights times a relaxed Bernoulli mask in training; at the end a hard mask, and fine-tuning (Zhou et al. 2021).

    Rows count the hard mask. The mean of 1 - p is not among their columns: the projection after each step makes it the scheduled sparsity, at least.
    """

    name = "probmask"
    original = {"cifar": dict(epochs=300, batch_size=256, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_all=True, schedule="cosine_epoch",
                              clip=3.0, bn_momentum=0.1, validation=False, augmentation="gse")}  # with CIFAR-100's own statistics there
    retained = {"cifar": dict(batch_size=256)}  # ST-3, §4.1: with another batch size it got worse
    presets = {"form": {"st3code": ST3_CODE}}
    form = option("original", "st3code", help="st3code: as ST-3's released code has it, unless an option says otherwise")
    mask_lr = option(6e-3, help="learning rate of Adam on the probabilities, cosine decay; in ST-3's form to a tenth at"
                     " 1/2 and at 3/4, like its weights'")
    ramp_start = option(0.16, most=1, help="share of training at which the budget starts to fall")
    ramp_end = option(0.6, most=1, help="share of training at which the budget reaches the target")
    ramp_granularity = option("epoch", "step", help="how often the sparsity rises")
    trials = option(10, least=1, help="hard masks drawn at the end, of which the best on training batches stays")
    trial_batches = option(10, least=1, help="training batches that the trials are judged on")
    finetune = option(1 / 15, most=1, help="fine-tuning with the hard mask, as a share of training: an epoch at least, or none")
    finetune_lr = option(0.01, least=1e-9, help="constant learning rate of the fine-tuning, as a share of the recipe's")
    sampling = option("exact", "bernoulli", help="hard masks with exactly the budget, or each weight on its own (original)")
    bn_stats = option("train", "original", help="what normalises in evaluation: training's statistics or, until fine-tuning, those of the "
                      "evaluated batch")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.exact, self.needs_batches = self.sampling == "exact", self.trials > 1
        # at 1 no gradient reaches p; the original's search for v stops at 2⁻²¹, which it subtracts from every p after the first step
        self.first = 1.0 if self.form == "st3code" else 1 - 2.0 ** -21
        self.p = nn.Parameter(torch.full((layout.size,), self.first))
        self.adam = torch.optim.Adam([self.p], lr=self.mask_lr)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("hard", torch.tensor(False))  # whether the mask has been drawn

    def cycles(self, epochs):
        share = max(round(self.finetune * epochs), 1)  # one at least: until then batch norm's statistics are those of all masks
        cycles = [Cycle(epochs, passes=2)] + [Cycle(share, lr=self.finetune_lr)] * (self.finetune > 0)
        self.learning = 2 * epochs / sum(cycle.passes * cycle.epochs for cycle in cycles)  # share of the passes in which p learns
        return cycles

    @torch.no_grad()
    def forget(self, run):
        super().forget(run)
        self.p.fill_(self.first), self.temperature.fill_(1), self.hard.fill_(False)
        reset(self.adam)

    def start(self, run, cycle):
        if self.ramp_granularity == "epoch" and self.ramp_end * run.epochs < 1 and not cycle:
            warn(f"{self.called} lowers its budget once an epoch, and so reaches the target at once in a training of {run.epochs} "
                 f"epoch{'s' * (run.epochs > 1)}: set ramp_granularity=step")
        if cycle and self.form == "original":  # fine-tuning has an optimiser of its own
            reset(run.optimizer)

    def training_cost(self, sparse, dense):
        return 2 * sparse + self.learning * dense + (1 - self.learning) * sparse  # p needs the gradient of every weight

    def settled(self, run):
        return self.exact and run.cycle > 0  # in cycle 0 each epoch has another random mask

    def evaluating(self, net, now):
        if self.bn_stats == "original" and not self.hard:  # which fine-tunes with running statistics
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                    module.train()
                    module.track_running_stats = not now  # an evaluation changes no statistics

    def forward(self, theta):
        if not self.training:
            return theta * self.mask
        # in fine-tuning p is 0 or 1, and so is its sigmoid: the hard mask itself
        return theta * torch.sigmoid(self.logits(noise(self.p)) * self.temperature)

    def logits(self, eta):
        """ln p − ln(1 − p) + η, (N,), for noise eta (N,): if the noise is standard logistic, positive with probability p."""
        return torch.log(self.p + 1e-20) - torch.log(1 - self.p + 1e-20) + eta

    def before_step(self, run):
        if not run.cycle:
            if self.p.grad is None:
                raise ValueError(f"{self.called} learns its mask in training mode: call model.train(); to freeze normalisation, its modules' eval()")
            self.hold()
            run.clip_gradients()  # weights and probabilities together; the clipping that follows finds nothing left to do
            self.p.grad.nan_to_num_(0, 0, 0)  # not finite after an overflow, for which a GradScaler skips the weights' step
            done = run.epoch / run.epochs
            decay = (1 + math.cos(math.pi * done)) / 2 if self.form == "original" else 0.1 ** ((done >= 1 / 2) + (done >= 3 / 4))
            self.adam.param_groups[0]["lr"] = self.mask_lr * decay
            self.adam.step()
        self.p.grad = None  # so that the weights' optimiser leaves p alone

    def hold(self):
        """Gives Adam p, whose object load_state_dict(assign=True) has replaced, and its state."""
        held = self.adam.param_groups[0]["params"]
        if held[0] is not self.p:
            if held[0] in self.adam.state:
                self.adam.state[self.p] = self.adam.state.pop(held[0])
            held[0] = self.p

    @torch.no_grad()
    def after_step(self, run):
        if run.cycle:
            return
        share = (run.epoch + (run.epoch_ends and self.form == "original")) / run.epochs  # the next step's; in ST-3's form this step's
        now, first, last = (run.step + 1) / run.steps_per_epoch, self.ramp_start * run.epochs, self.ramp_end * run.epochs
        if self.ramp_granularity == "epoch":  # the budget of the epoch that this step belongs to
            now, first, last = run.epoch, int(first + 1e-9), int(last + 1e-9)
        kept = 1 - self.sparsity * ramp(now, first, last)
        if kept < 1:
            self.repeated(self.spend, self.p, kept * self.layout.size)
        else:
            self.p.clamp_(0, 1)
        self.temperature.fill_(1 / (0.97 * (1 - share) + 0.03))
        if run.epoch_ends or run.step % run.steps_per_epoch == 0:  # for evaluation, and for the cost, because the budget has fallen
            self.set_mask(self.p > run.random("evaluation"))
        if run.step + 1 == run.total_steps:
            self.harden(run)

    @torch.no_grad()
    def spend(self, p, total):
        """Changes the probabilities p (N,), in place, so that they sum to no more than `total`."""
        p.copy_(project(p, total))

    @torch.no_grad()
    def harden(self, run):
        """Draws `trials` hard masks and keeps the one with the lowest loss on training batches. As in the original, these passes run in training
        mode: the running statistics, until then those of relaxed masks, begin to follow hard ones."""
        generator, best = run.generator("trials"), math.inf
        batches = run.batches(self.trial_batches) if self.trials > 1 else ()
        for _ in range(self.trials):
            score = self.logits(noise(self.p, generator))
            mask = keep(score, self.budget) if self.sampling == "exact" else score > 0
            loss = sum(float(run.loss(run.theta * mask, x, y)) for x, y in batches)
            if loss < best or not math.isfinite(best):
                best, chosen = loss, mask
        run.count_passes(-self.trials * len(batches))  # forward passes alone, like validation's, which do not count either
        self.set_mask(chosen)
        self.p.copy_(chosen), self.hard.fill_(True)

    def get_extra_state(self):
        """Adam's two moments (N,) each and its number of steps, in one tensor, since safetensors holds nothing else; none before the first step."""
        state = self.adam.state.get(self.p)
        return torch.cat([state["exp_avg"], state["exp_avg_sq"], state["step"].to(self.p).view(1)]) if state else self.p.new_empty(0)

    def set_extra_state(self, state):
        self.adam.state.clear()
        if len(state):
            moments, step = state.to(self.p)[:-1].clone(), state[-1].float().cpu()  # on a GPU every step would wait for it
            self.adam.state[self.p] = {"step": step, **dict(zip(("exp_avg", "exp_avg_sq"), moments.chunk(2)))}


def reset(optimizer):
    """Sets an optimiser's state to zero, in place, so that captured graphs stay valid."""
    for state in optimizer.state.values():
        for value in filter(torch.is_tensor, state.values()):
            value.zero_()


def noise(p, generator=None):
    """η = −ln(ln u0 / ln u1), u uniform: a standard logistic variable per weight."""
    u = torch.rand(2, *p.shape, generator=generator, device="cpu" if generator else p.device).to(p).clamp_min(1e-20)
    return -torch.log((u[0].log() - 1e-7) / (u[1].log() - 1e-7))


@torch.no_grad()
def project(p, total):
    """The nearest point to p (N,) with entries in [0, 1] and sum ≤ total: clip(p − v, 0, 1) with v ≥ 0 found by bisection."""
    low, high = torch.zeros_like(p[0]), p.max().clamp_min(0)
    for _ in range(25):
        middle = (low + high) / 2
        over = (p - middle).clamp(0, 1).sum() > total
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (p - high * (p.clamp(0, 1).sum() > total)).clamp(0, 1)
