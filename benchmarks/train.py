"""The only training loop: every method, every task, every device."""
import math
import time
import weakref
from contextlib import nullcontext
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from benchmarks import models
from benchmarks.batches import AUGMENTATION, epoch_batches, eval_batches, steps_per_epoch
from benchmarks.checkpoint import Progress, random_state, seed_all, set_random_state
from benchmarks.cost import computed_with
from benchmarks.gpu import team
from benchmarks.gpu.capture import Captured, Repeated
from benchmarks.gpu.compiled import Compiled, worthwhile
from benchmarks.method_files import digest
from benchmarks.switches import Switches
from methods import SparseModel, Training
from methods.seeds import stable_seed

EVALUATED = 500  # images per batch in evaluation
SAMPLES_PER_EPOCH = 8  # how often per epoch the layers' densities are read, for the training FLOPs


def evaluated_together(data, device):
    """The number of images per batch in evaluation. On a GPU, small images come in larger batches, because each is little work."""
    return EVALUATED if device.type == "cpu" else max(EVALUATED, 5 * EVALUATED * 32 ** 2 // math.prod(data.shape[1:]))


class Trainer:
    """One run: `task` (recipes.Task) trained with a method at a sparsity from a seed, on `data` (batches.Data, on `device`).

    record: what records the fixed parts of a step for replay (`capture.cuda_graph`); None: nothing is recorded.
    """

    def __init__(self, task, method, sparsity, seed, options, data, device="cpu", record=None):
        self.task, self.seed, self.data, self.device = task, seed, data, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed(seed, "network"))
            self.network_options = models.options_of(task.model, task.width, bn_momentum=task.bn_momentum)
            # with init=sparse, sparse storage draws the start weights itself and needs only the shapes of the network
            by_graph = options.get("init") == "sparse" and not (task.skip or task.first_dense or task.last_dense)
            shapes = task.storage != "masked" and by_graph
            with torch.device("meta" if shapes else "cpu"):
                net = models.build(task.model, data.classes, **self.network_options)
            net = team.join_norms(net if shapes else net.to(self.device))
            skip, include = task.named(net)
            self.model = SparseModel(net, method, sparsity, skip, include=include, storage=task.storage, **options).to(self.device)
        self.sources = digest(method) + task.source
        self.loss_sum = torch.zeros((), device=self.device)
        self.hits = torch.zeros((), device=self.device, dtype=torch.int64)
        self.nnz_sum = torch.zeros(len(self.model.layout.sizes), device=self.device, dtype=torch.float64)
        extra = self.model.own_groups()
        apart = {p for group in extra for p in group["params"]}
        plain = [p for name, p in self.model.named_parameters() if not name.startswith("net.") and p not in apart]
        other = list(self.model.net.parameters())
        plain, other = plain + [p for p in other if p.ndim > 1], [p for p in other if p.ndim <= 1]  # embeddings and the like decay as weights do
        groups = [{"params": plain}, {"params": other, "weight_decay": task.weight_decay if task.decay_all else 0.0}, *extra]
        self.optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=task.lr, momentum=task.momentum,
                                         weight_decay=task.weight_decay, nesterov=task.nesterov, fused=True)
        steps = steps_per_epoch(data.train, task.batch_size, task.drop_last)
        scoring = math.ceil(10 * data.classes / task.batch_size)
        own = weakref.proxy(self)  # avoids a reference cycle: memory and GPU recordings are freed as soon as a run ends
        self.training = Training(self.model, self.optimizer, task.epochs, steps, seed=seed, clip=task.clip, scoring_batches=scoring,
                                 batches=lambda n: own.batches(n), criterion=partial(cross_entropy, label_smoothing=task.label_smoothing))
        self.training.same_batches, self.progress = True, Progress()
        self.switches = Switches(self.model.layout.size, self.device) if task.count_switches else None
        self.network, self.apply_weights = team.parallel(self.model), self.model.apply_weights
        self.batch_images = task.batch_size  # images of the whole batch; with several processes each has a part of it
        self.record = record if team.world_size() == 1 else None
        if self.record:
            self._capture()

    def _capture(self):
        """From now on, replays the fixed parts of a step: forward and backward pass, clipping and optimiser step, and what the method repeats."""
        parameters, record = self.training.parameters, self.record
        if worthwhile(self.task, self.device):
            self.network = Compiled(self.model, self.task.batch_size)
            self.apply_weights = self.network.apply_weights
        own, training = weakref.proxy(self), weakref.proxy(self.training)
        self._fix_rates()

        def state():
            groups, momentum = own.optimizer.param_groups, own.optimizer.state.get(own.model.theta, {}).get("momentum_buffer")
            return training.cycle, id(momentum), *((g["weight_decay"], g["momentum"]) for g in groups)

        self.forward_backward = Captured(lambda x, y: Trainer.forward_backward(own, x, y), parameters, self.model, record, lambda: training.cycle)
        self.training.apply = Captured(lambda: Training.apply(training), parameters, self.model.method, record, state, self.forward_backward)
        touched = [self.model.theta, *self.model.method.parameters()]
        self.repeated = Repeated(training, parameters, touched, self.model.method, record, state, self.forward_backward)
        self.training.clear_gradients = self.forward_backward.clear
        self.model.method.repeated = lambda *arguments: own.repeated(*arguments)

    def _fix_rates(self):
        """Keeps the learning rates in persistent tensors, which a recorded step can read."""
        self.rate = None
        for group in self.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device).clone()

    def autocast(self):
        bf16 = self.task.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if bf16 else nullcontext()

    def batches(self, n):
        """`n` training batches for scoring, different ones at every step."""
        seed = stable_seed(self.seed, "scoring", self.training.cycle, self.training.step)
        return list(epoch_batches(self.data.train, self.data, self.task.batch_size, seed, 0, stop=n, whole=True,
                                  **AUGMENTATION[self.task.augmentation]))

    def learning_rate(self, step):
        """Learning rate of a step within the cycle."""
        training = self.training
        constant = training.cycles[training.cycle].lr
        return self.task.lr * constant if constant else self.task.learning_rate(step, training.epochs, training.steps_per_epoch)

    def step(self, x, y):
        """Forward, backward and update for one batch. The CPU waits for the device only in mask updates and in an epoch's last step."""
        self.set_learning_rate(self.learning_rate(self.training.step))
        self.model.dense_gradient = self.forward_backward(x, y)
        before = self.model.method.mask.clone() if self.switches else None
        group = Switches.group(self.training.epoch, self.training.epochs)
        self.training.update((x, y))
        if self.switches:
            self.switches.add(group, before, self.model.method.mask)

    def forward_backward(self, x, y):
        """Computes the gradients of one batch and adds to the sums of loss and hits; returns the gradient at the effective weights (N,)."""
        passes, smoothing = self.training.passes, self.task.label_smoothing
        alone = team.world_size() == 1
        images = len(y) if alone else self.batch_images / team.world_size()  # so that the mean over the processes is the mean over the whole batch
        for _ in range(passes):
            with self.autocast():
                logits = self.network(x).float()
            loss = cross_entropy(logits, y, reduction="mean" if alone else "sum", label_smoothing=smoothing)
            loss = loss if alone else loss / images
            (loss / passes if passes > 1 else loss).backward()
        self.loss_sum += loss.detach() * images
        self.hits += (logits.detach().argmax(1) == y).sum()
        return self.model.dense_gradient

    def set_learning_rate(self, rate):
        if self.record and rate == self.rate:
            return
        for group in self.optimizer.param_groups:
            own = rate * group.get("lr_scale", 1)
            group["lr"] = group["lr"].fill_(own) if self.record else own
        self.rate = rate

    def train_epoch(self, within):
        """Trains one epoch; after each step calls `within(self)` and yields the share of the run done. Returns (loss, accuracy in percent)."""
        task, training, progress = self.task, self.training, self.progress
        if progress.index:
            set_random_state(self.random, self.device)
        else:  # other random numbers (dropout) depend on the epoch alone
            seed_all(self.seed, "epoch", progress.cycle, progress.epoch)
            self.loss_sum.zero_(), self.hits.zero_()
        self.model.train()
        # each cycle has different batches, unless the method replays those of the first
        replay, own, first = self.model.method.replay, progress.done, progress.epoch
        batches = epoch_batches(self.data.train, self.data, task.batch_size, self.seed, first if replay == "all" else own,
                                crops=own if replay == "none" else first, drop_last=task.drop_last, start=progress.index,
                                **AUGMENTATION[task.augmentation])
        every = max(1, training.steps_per_epoch // SAMPLES_PER_EPOCH)
        began = time.monotonic()
        for index, (x, y) in enumerate(batches, progress.index):
            if index % every == 0:
                self.nnz_sum += training.passes * computed_with(self.model)
                progress.samples, progress.passes = progress.samples + 1, progress.passes + training.passes
            self.batch_images = min(task.batch_size, len(self.data.train) - index * task.batch_size)
            self.step(x, y)
            progress.index, progress.steps = index + 1, progress.steps + 1
            self._clock(began)  # stops before the yield: the time of other runs that take turns with this one does not count
            within(self)
            yield self.share()
            began = time.monotonic()
        if self.record:
            self.forward_backward.clear(at_once=True)  # so that hooks at the end of an epoch or cycle find no gradients
        seen = min(progress.index * task.batch_size, len(self.data.train))
        loss, hits = team.total(self.loss_sum).item() / seen, team.total(self.hits).item()
        self._clock(began)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {progress.epoch}" + (f" of cycle {progress.cycle}" * (progress.cycle > 0)))
        return loss, 100 * hits / seen

    def _clock(self, began):
        self.progress.step_seconds += time.monotonic() - began
        self.progress.seconds += time.monotonic() - began

    def evaluate(self, split):
        """Accuracy in percent on a split, with the masks and statistics as they are."""
        return self.percent(self.hits_on(split), split)

    def percent(self, hits, split):
        return 100 * team.total(hits).item() / len(split)

    @torch.no_grad()
    def hits_on(self, split, net=None):
        """The number of right answers on a split, as a tensor that the device may still be computing. net: another network to evaluate."""
        self.model.eval()
        output = net or partial(self.apply_weights, self.model.method(self.model.theta))
        hits = torch.zeros((), device=self.device, dtype=torch.int64)
        with self.autocast():
            for x, y in eval_batches(split, self.data, evaluated_together(self.data, self.device)):
                if len(y):
                    hits += (output(x).argmax(1) == y).sum()
        return hits

    def finish_epoch(self, loss, accuracy):
        """Evaluates, adds the epoch to the curves, and advances to the next. The test set never decides anything. Yields the share of the run done
        while the device evaluates, so that other runs that take turns can launch their work meanwhile."""
        progress, model, training = self.progress, self.model, self.training
        began, watched = time.monotonic(), self.data.val or self.data.test
        hits = self.hits_on(watched)
        progress.seconds += time.monotonic() - began
        yield self.share()
        began, nnz = time.monotonic(), int(model.method.mask.sum())
        last = progress.epoch == training.epochs - 1
        final = last or (model.method.settled(training) and nnz <= model.method.budget_at(progress.cycle) and not model.outside())
        now = self.percent(hits, watched)
        val, test = (now, math.nan) if self.data.val else (math.nan, now)
        improved = final and val > progress.best_val
        if self.data.val and (improved or last):
            test = self.evaluate(self.data.test)
        if improved:
            progress.best_val, progress.test_at_best = val, test
            if model.method.keeps_best:
                training.snapshot("best")
        progress.curves.append(dict(epoch=progress.done, train_loss=loss, train_top1=accuracy, val_top1=val, test_top1=test,
                                    sparsity=1 - nnz / model.layout.size, lr=self.learning_rate(training.step - 1),
                                    logged={name: float(value.detach() if torch.is_tensor(value) else value)
                                            for name, value in model.method.logged().items()}))
        progress.epoch, progress.done, progress.index = progress.epoch + 1, progress.done + 1, 0
        progress.seconds += time.monotonic() - began

    def share(self):
        """The share of the run that is done."""
        return (self.progress.done + self.progress.index / self.training.steps_per_epoch) / self.training.all_epochs

    def run(self, save=lambda trainer: None):
        """Trains to the end, from the start or from the state that `load_state_dict` restored; `save` and errors: see `steps`."""
        for _ in self.steps(save):
            pass
        return self

    def steps(self, save=lambda trainer: None, cycle_done=lambda trainer: None, within=lambda trainer: None):
        """The training as a generator, so that several runs can take turns: yields the share of the run done after each step, and twice at the end of
        an epoch.

        `save(self)` is called after each epoch, `within(self)` after each step (a run can be saved there, too), `cycle_done(self)` after each
        cycle. Raises FloatingPointError where training diverges.
        """
        progress, training = self.progress, self.training
        while True:
            if not progress.started:
                seed_all(self.seed, "start", progress.cycle)  # for the dropout in scoring passes
                began = time.monotonic()
                training.start(progress.cycle)
                progress.seconds += time.monotonic() - began
                progress.epoch, progress.started = training.epoch, True
                progress.best_val, progress.test_at_best = -1.0, math.nan
            while progress.epoch < training.epochs:
                loss, accuracy = yield from self.train_epoch(within)
                yield from self.finish_epoch(loss, accuracy)
                save(self)
                yield self.share()
            cycle_done(self)
            if progress.cycle + 1 == len(training.cycles):
                return
            progress.cycle, progress.started = progress.cycle + 1, False

    def diverged(self):
        """Whether the loss or the weights are NaN or infinite: a method's operation may then raise an unrelated error."""
        try:
            return not all(value.isfinite().all() for value in (self.loss_sum, self.model.theta))
        except RuntimeError:  # the device is lost
            return False

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "training": self.training.state_dict(),
                "nnz_sum": self.nnz_sum, "progress": vars(self.progress), "switches": self.switches and self.switches.counts,
                "sums": [team.gathered(self.loss_sum), team.gathered(self.hits)],
                "random": random_state(self.device) if self.progress.index else None, "method": self.sources, "share": self.share()}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.record:
            self._fix_rates()
        self.training.load_state_dict(state["training"])
        self.nnz_sum.copy_(state["nnz_sum"])
        if self.switches:
            self.switches.counts.copy_(state["switches"])
        self.progress, self.random = Progress(**state["progress"]), state["random"]
        for own, saved in zip((self.loss_sum, self.hits), state["sums"]):
            own.copy_(team.own(saved))
