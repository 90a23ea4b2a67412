"""Dynamic pruning with feedback (Lin et al., ICLR 2020), after an unofficial implementation: the paper was not at hand."""
from methods.allocation import whole
from methods.base import option
from methods.st3 import STEHard


class DPF(STEHard):
    """Straight-through gradients and a hard mask that is renewed every 16 steps, and no more after three quarters of training (Lin et al. 2020)."""

    name = "dpf"
    original = {"cifar": dict(epochs=300, batch_size=128, lr=0.2, nesterov=True, weight_decay=1e-4, decay_all=True,
                              milestones=(150 / 300, 225 / 300), clip=0.0, bn_momentum=0.1, augmentation="zero", validation=False)}
    retained = {}  # its ramp is not ST-3's
    ft_epochs, rewind_finetune = 0, False  # ST-3's fine-tuning begins with a new mask
    every = option(16, least=1, help="steps between two masks")
    threshold = option("topk_exact", "literal", help="how many weights a sparsity keeps; literal: those above the sorted |w| at int(N s)")
    ramp_start = option(0.0, most=1)
    ramp_end = option(0.75, most=1, help="share of training after which the mask is frozen: where, in its "
                      "own recipe and ST-3's, the learning rate falls the second time")

    def after_step(self, run):
        done, end = run.step + 1, max(whole(self.ramp_end, run.total_steps), 1)
        last = end - end % self.every or end
        if done == last or (done % self.every == 0 and done < last):
            self.refresh(run.theta, self.sparsity if done == last else self.scheduled(run, run.step))

    def kept(self, sparsity):
        literal = self.threshold == "literal" and sparsity > 0
        return (self.layout.size - int(self.layout.size * sparsity) - 1, 0.0) if literal else super().kept(sparsity)
