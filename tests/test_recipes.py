"""recipe=original: what a method's own paper trains with, of what the suite can say, field by field."""
import math
from dataclasses import replace

import pytest
import torch
from test_every_method import make

import methods
from benchmarks.__main__ import main
from benchmarks.batches import AUGMENTATION
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.tasks import TASKS, canonical, settle

TASK = {"cifar": "cifar10-resnet20", "imagenet": "imagenet-resnet50"}
NARROWER = {"cifar10": "cifar10-resnet20", "cifar100": "cifar100-wrn34x2", "imagenet-resnet50": "imagenet-resnet50",
            "imagenet-mobilenetv1": "imagenet-mobilenetv1"}
PLAIN = dict(clip=0.0, bn_momentum=0.1)  # neither clipping nor statistics of another pace than PyTorch's
STR = dict(PLAIN, lr=0.256, batch_size=256, momentum=0.875, schedule="cosine", label_smoothing=0.1, epochs=100)
GRANET = dict(epochs=160, batch_size=128, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_all=True, milestones=(0.5, 0.75),
              clip=0.0, bn_momentum=0.1, interval=1000, prune_end=0.5, validation=True)
ORIGINAL = {"recipe": "original"}
STATED = {
    ("feather", "cifar"): dict(batch_size=128, epochs=160, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_all=False, schedule="cosine_step",
                               augmentation="zero", clip=3.0, validation=False, bn_momentum=0.1),
    ("acdc", "cifar10"): dict(PLAIN, epochs=200, lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4, decay_all=True,
                              milestones=(0.33, 0.63, 0.93), augmentation="zero", validation=False),
    ("acdc", "cifar100"): dict(PLAIN, epochs=200, lr=0.08, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_all=True,
                               milestones=(0.38, 0.58, 0.78), augmentation="gse", validation=False),
    ("acdc", "imagenet"): dict(PLAIN, lr=0.256, batch_size=256, momentum=0.875, weight_decay=3.05e-5, decay_all=True, label_smoothing=0.0,
                               schedule="cosine", epochs=100,
                               table="imagenet"),
    ("spartan", "imagenet"): dict(PLAIN, batch_size=4096, lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_all=False, epochs=100,
                                  schedule="cosine",                                  label_smoothing=0.1),
    ("snfs", "cifar"): dict(PLAIN, batch_size=100, momentum=0.9, nesterov=True, lr=0.1, milestones=(5 / 9,), weight_decay=5e-4, decay_all=True,
                            epochs=100, augmentation="granet", validation=True),
    **{(name, data): dict(PLAIN, batch_size=64, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True, schedule="cosine_epoch",
                          epochs=160, augmentation=padding, validation=False)
       for name in ("mest", "mest_s") for data, padding in (("cifar10", "zero"), ("cifar100", "gse"))},
    ("srigl", "cifar"): dict(PLAIN, epochs=250, batch_size=128, lr=0.1, nesterov=True, schedule="cosine_step", weight_decay=5e-4,
                             decay_all=True, gamma=0.3, interval=100, init="grad_flow", augmentation="granet", validation=False),
    ("dst_mask", "cifar"): dict(PLAIN, batch_size=64, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True, epochs=160,
                                milestones=(0.5, 0.75), sparsity_penalty=5e-6, augmentation="zero", validation=False),
    ("str_original", "imagenet"): dict(STR, decay=2.251757813e-5),
    ("str_original", "imagenet-mobilenetv1"): dict(STR, decay=3.751757813e-5, a0=-12800.0),
    ("granet", "cifar10"): dict(GRANET, augmentation="granet"),
    ("granet", "cifar100"): dict(GRANET, augmentation="gse"),
    ("granet", "imagenet"): dict(epochs=100, batch_size=128, lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="steps", warmup=5.0,
                                 milestones=(0.3, 0.6, 0.9), label_smoothing=0.1, interval=4000, prune_end=0.3, clip=0.0, bn_momentum=0.1),
    ("dnw", "imagenet"): dict(STR, weight_decay=3.0517578125e-5),
    ("imp", "cifar"): dict(epochs=160, batch_size=128, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True, validation=False,
                           milestones=(0.5, 0.75), augmentation="gse", clip=0.0, bn_momentum=0.1),
    ("rigl", "imagenet-resnet50"): dict(
        batch_size=4096, lr=1.6, momentum=0.9, nesterov=True, weight_decay=1e-4, label_smoothing=0.1, schedule="steps",
        milestones=(30 / 102, 70 / 102, 90 / 102), epochs=102, update_end=0.78125, **PLAIN),
    ("probmask", "cifar"): dict(epochs=300, batch_size=256, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_all=True, schedule="cosine_epoch",
                                clip=3.0, bn_momentum=0.1, validation=False, augmentation="gse"),
    **{(name, "imagenet-resnet50"): dict(
        gamma=2.0, allocation="er_gse", init="sparse", batch_size=256, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="steps", milestones=(0.3, 0.6, 0.9), warmup=5.0, update_end=0.75, clip=0.0, label_smoothing=0.1, bn_momentum=0.1,
        epochs=100, model="resnet50_torchvision") for name in ("gse_uniform", "gse_grabo", "gse_graest")},
    **{("grasp", data): dict(PLAIN, epochs=160, batch_size=128, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True, milestones=(0.5, 0.75),
                             augmentation=padding, validation=False) for data, padding in (("cifar10", "zero"), ("cifar100", "gse"))},
    ("dpf", "cifar"): dict(PLAIN, epochs=300, batch_size=128, lr=0.2, nesterov=True, weight_decay=1e-4, decay_all=True,
                           milestones=(0.5, 0.75), augmentation="zero", validation=False),
}


def test_all_originals_are_tested():
    assert {(name, data) for name in methods.available() for data in methods.get(name).original} == set(STATED)


@pytest.mark.parametrize("name, data", STATED)
def test_original(name, data):
    named = {**TASK, **NARROWER}[data]
    plain, usual = settle(Spec(named, name, 0.9, 0))
    task, options = settle(Spec(named, name, 0.9, 0, options=ORIGINAL))
    stated, known = STATED[name, data], methods.get(name).options()
    assert {field: (options if field in known else vars(task))[field] for field in stated} == stated
    assert all(known[field].parse(value) == value for field, value in options.items())
    # and nothing else is another
    assert {field for field in vars(task) if vars(task)[field] != vars(plain)[field]} <= {*stated, "recipe"}
    assert {field for field in options if options[field] != usual.get(field)} <= set(stated)
    assert (task.recipe, plain.recipe) == ("original", "suite")


@pytest.mark.parametrize("name", sorted({name for name, data in STATED if data.startswith("cifar")}))
def test_an_original_takes_no_option_from_the_recipe_of_a_task(name):
    """GSE's tasks have another recipe, with values for options of other methods; what these had would be neither the one recipe nor the other."""
    for named in ("cifar10-resnet56", "cifar10-vit", "cifar10-resnet20w8"):
        (other, options), (task, own) = (settle(Spec(each, name, 0.9, 0, options=ORIGINAL)) for each in (named, "cifar10-resnet20"))
        assert options == own
        unlike = {field for field in vars(task) if vars(task)[field] != vars(other)[field]}
        assert unlike <= {"model", "width", "defaults"} | ({"milestones"} if task.schedule != "steps" else set())


def test_what_st3_s_comparison_keeps_of_probmask():
    """§4: its batch size; and its ramp, which is the default of its options."""
    spec = Spec(TASK["cifar"], "probmask", 0.9, 0)
    assert settle(spec)[0] == replace(TASKS[TASK["cifar"]], batch_size=256) and canonical(spec) == spec
    assert settle(Spec("digits", "probmask", 0.9, 0))[0] == TASKS["digits"]
    other = replace(spec, options={"batch_size": 128})
    assert settle(other)[0] == TASKS[TASK["cifar"]] and canonical(other) == other
    assert canonical(replace(spec, options={"batch_size": 256})) == spec


def test_what_the_spec_says_wins():
    spec = Spec(TASK["cifar"], "dpf", 0.9, 0, epochs=5, options={**ORIGINAL, "lr": 0.1, "every": 1})
    task, options = settle(spec)
    assert (task.epochs, task.lr, task.batch_size, options["every"]) == (5, 0.1, 128, 1)
    assert canonical(spec) == spec and settle(canonical(spec)) == (task, options)  # a rate that is the suite's own is said, too


def test_keys():
    plain = Spec(TASK["cifar"], "dpf", 0.9, 0)
    spec = Spec(TASK["cifar"], "dpf", 0.9, 0, options=ORIGINAL)
    assert canonical(Spec(TASK["cifar"], "dpf", 0.9, 0, options={"recipe": "suite"})).key == plain.key != spec.key == canonical(spec).key
    same = Spec(TASK["cifar"], "dpf", 0.9, 0, epochs=300, options={**ORIGINAL, "lr": 0.2, "every": 16})
    assert canonical(same) == spec and spec.options == (("recipe", "original"),)


@pytest.mark.parametrize("task", ["digits", *TASK.values(), "imagenet-mobilenetv1"])
@pytest.mark.parametrize("name", methods.available())
def test_what_no_paper_has_is_refused(name, task):
    data = TASKS[task].dataset.rstrip("10")
    if {task, TASKS[task].dataset, data} & {*methods.get(name).original}:
        return
    with pytest.raises(ValueError, match=f"^{name} has no recipe=original for {data}") as caught:
        settle(Spec(task, name, 0.9, 0, options=ORIGINAL))
    assert "\n" not in str(caught.value)
    assert all(other in str(caught.value) for other in methods.get(name).original)


@pytest.mark.parametrize("value, said", [("original", "feather has no recipe=original for digits; it has one for cifar"),
                                         ("paper", "option recipe takes suite or original, not 'paper'")])
def test_refusal_of_the_command(value, said, tmp_path, capsys):
    words = ["run", "--task", "digits", "--method", "feather", "--sparsity", "0.9", "--set", f"recipe={value}"]
    assert main([*words, "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_method_of_ones_own_has_one_and_the_row_says_so(tmp_path):
    (tmp_path / "mine.py").write_text("from methods.magnitude import GMP\n\nclass Mine(GMP):\n"
                                      "    original = {'digits': dict(epochs=1, lr=0.05, ramp_end=0.25)}\n")
    words = ["run", "--task", "digits", "--method", f"{tmp_path}/mine.py:Mine", "--sparsity", "0.9", "--set", "recipe=original"]
    assert main([*words, "--results", str(tmp_path)]) == 0
    row, = Store(tmp_path).rows("digits").values()
    assert (row["options"], row["epochs"], row["status"]) == ("recipe=original", 1, "ok")


@pytest.mark.parametrize("name", ["lrr_feather", "granet_gse", "lamp_imp", "set", "static", "lrr", "str"])
def test_a_combination_is_not_what_a_paper_trained(name):
    assert methods.get(name).original == {}


def test_a_subclass_in_another_file_trained_with_no_recipe_of_its_base():
    """In the same file it did: GSE's samplers, MEST + S."""
    assert type("Mine", (methods.get("granet"),), {"__module__": "mine"}).original == {}
    assert type("Mine", (methods.get("granet"),), {"__module__": "methods.granet"}).original == methods.get("granet").original != {}
    assert type("Mine", (methods.get("granet"),), {"__module__": "mine", "original": {"digits": {}}}).original == {"digits": {}}


def test_the_recipe_of_a_network_comes_before_that_of_its_data(tmp_path):
    (tmp_path / "mine.py").write_text("from methods.magnitude import GMP\n\nclass Mine(GMP):\n    original = {'cifar': dict(lr=0.1), "
                                      "'cifar10': dict(lr=0.2), 'cifar10-resnet20': dict(lr=0.3)}\n")
    found = {task: settle(Spec(task, f"{tmp_path}/mine.py:Mine", 0.9, 0, options=ORIGINAL))[0].lr
             for task in ("cifar100-wrn34x2", "cifar10-vgg11", "cifar10-resnet20")}
    assert found == {"cifar100-wrn34x2": 0.1, "cifar10-vgg11": 0.2, "cifar10-resnet20": 0.3}


def test_images_of_granet():
    """CIFAR-10 reflected at its edges, with ST-3's normalisation; CIFAR-100 padded with zeros, with its own."""
    ten, hundred = (settle(Spec(NARROWER[data], "granet", 0.9, 0, options=ORIGINAL))[0] for data in ("cifar10", "cifar100"))
    assert [(AUGMENTATION[task.augmentation]["padding"], task.normalisation) for task in (ten, hundred)] == [
        ("reflect", "st3"), ("zero", "gse")]
    assert settle(Spec(NARROWER["cifar10"], "static", 0.9, 0, options={"augmentation": "granet"}))[0].augmentation == "granet"


def test_learning_rates_of_gse_and_rigl_on_imagenet():
    for name, spe, rates in (("gse_uniform", 5004, {0: 1e-5, 5: 0.1, 29.9: 0.1, 30: 0.01, 60: 1e-3, 90: 1e-4}),
                             ("rigl", 312, {0: 1.6, 29.9: 1.6, 30: 0.16, 70: 0.016, 90: 0.0016})):
        task, _ = settle(Spec("imagenet-resnet50", name, 0.9, 0, options=ORIGINAL))
        assert {epoch: task.learning_rate(round(epoch * spe), task.epochs, spe) for epoch in rates} == pytest.approx(rates)


def test_the_momentum_of_normalisation_is_the_recipe_s():
    assert make("static", bn_momentum=0.3).model.net.bn.momentum == 0.3 and make("static").model.net.bn.momentum == 0.1


def test_learning_rates():
    trainer = make("static", schedule="cosine_step", lr=0.1, epochs=100)
    total = trainer.training.total_steps
    assert [trainer.learning_rate(t) for t in (0, total // 4, total // 2, total)] == pytest.approx(
        [0.1, 0.05 * (1 + math.cos(math.pi / 4)), 0.05, 0])
    assert trainer.learning_rate(1) < trainer.learning_rate(0)
    trainer, spe = make("static", schedule="cosine_epoch", lr=0.1, epochs=100), total // 100
    assert [trainer.learning_rate(t) for t in (spe - 1, spe, 25 * spe + spe - 1, total - 1)] == pytest.approx(
        [0.1 * (1 + math.cos(math.pi * e / 100)) / 2 for e in (0, 1, 25, 99)])
    milestones = STATED["acdc", "cifar100"]["milestones"]
    trainer = make("static", lr=0.08, epochs=200, milestones=milestones)
    spe = trainer.training.steps_per_epoch
    rates = {epoch: (trainer.learning_rate(epoch * spe - 1), trainer.learning_rate(epoch * spe)) for epoch in (76, 116, 156)}
    assert all(after == pytest.approx(before / 10) for before, after in rates.values())


def test_what_a_method_sets_of_its_steps_is_trained_with():
    """ProbMask's fine-tuning has a constant rate, a share of the recipe's; passes of a step are averaged; batches are scored by the recipe's loss."""
    trainer = make("probmask", lr=0.2)
    trainer.training.cycle = 1
    assert [trainer.learning_rate(t) for t in (0, 10)] == pytest.approx([0.002, 0.002])
    trainer, (x, y) = make("static", lr=0.2, label_smoothing=0.3), (torch.randn(8, 1, 8, 8), torch.arange(8))
    theta, gradients = trainer.model.theta, []
    for passes in (1, 2):
        trainer.training.cycles[0] = trainer.training.cycles[0]._replace(passes=passes)
        theta.grad = None
        trainer.forward_backward(x, y)
        gradients.append(theta.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6) and gradients[0].abs().max() > 0.01
    logits = torch.randn(8, 10)
    assert torch.equal(trainer.training.criterion(logits, y), torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.3))


@pytest.mark.parametrize("method, task, epochs, warm", [
    ("gse_uniform", "imagenet-resnet50", 100, 5), ("gse_uniform", "imagenet-resnet50", 5, 0.5), ("granet", "imagenet-resnet50", 10, 1)])
def test_a_short_training_by_the_original_recipe_reaches_its_rate(method, task, epochs, warm):
    task, _ = settle(Spec(task, method, 0.9, 0, epochs=epochs, options={"recipe": "original"}))
    rates = [task.learning_rate(step, epochs, 100) for step in range(100 * epochs)]
    assert max(rates) == rates[int(100 * warm)] == 0.1 and rates[0] == pytest.approx(1e-5)
    assert rates[int(50 * warm)] == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("task, option, message", [
    ("imagenet-resnet50", "warmup=5", "warmup=5.0 has no effect: schedule=cosine warms up in its own way"),
    ("imagenet-resnet50", "augmentation=none", "augmentation=none has no effect: imagenet-resnet50 has images of another kind, with an augmentation of their own"),
    ("cifar10-resnet20", "schedule=cosine warmup=2", "warmup=2.0 has no effect: schedule=cosine warms up in its own way"),
    ("cifar10-vit", "bn_momentum=0.99", "bn_momentum=0.99 has no effect: vit_tiny has no batch normalisation"),
    ("digits-mlp", "bn_momentum=0.5", "bn_momentum=0.5 has no effect: mlp_digits has no batch normalisation"),
    ("digits", "momentum=5", "option momentum takes a number of at least 0 and at most 0.9999, not '5'")])
def test_what_would_change_nothing_is_refused(task, option, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        settle(Spec(task, "st3", 0.9, 0, options=dict(word.split("=") for word in option.split())))


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
@pytest.mark.parametrize("model, lr", [("resnet56", 0.1), ("vgg16", 0.1), ("vit", 0.01)])
def test_gse_s_recipe(data, model, lr):
    stated = dict(PLAIN, lr=lr, epochs=200, batch_size=128, momentum=0.9, nesterov=False, weight_decay=1e-4, decay_all=True, schedule="steps",
                  milestones=(0.4, 0.6), warmup=0.0, label_smoothing=0.0, validation=False, augmentation="gse", drop_last=True)
    assert {field: vars(TASKS[f"{data}-{model}"])[field] for field in stated} == stated


def test_the_miniature_s_recipe():
    task, options = settle(Spec("digits", "probmask", 0.9, 0))
    assert (task.epochs, task.batch_size, task.bn_momentum, task.precision, options) == (30, 64, 0.1, "fp32", {"mask_lr": 0.2})
    assert settle(Spec("digits", "rigl", 0.9, 0))[1] == {"interval": 10}
