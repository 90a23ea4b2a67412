"""A dense run against a plain PyTorch loop, and the networks against the same ones put together from torch's and torchvision's layers."""
import math
from dataclasses import replace

import pytest
import torch
from test_every_method import small_digits
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from benchmarks.batches import AUGMENTATION, epoch_batches
from benchmarks.grid import Spec
from benchmarks.models import MODELS, build
from benchmarks.tasks import settle
from benchmarks.train import Trainer

RECIPES = [dict(lr=0.2, nesterov=True, clip=0.5, label_smoothing=0.1, schedule="cosine_step", weight_decay=1e-2),
           dict(lr=0.1, nesterov=False, clip=0.0, label_smoothing=0.0, schedule="cosine_epoch", decay_all=True, weight_decay=1e-2)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_dense_run_is_that_of_a_plain_loop(recipe):
    task, options = settle(Spec("digits", "dense", 0.0, 0, 3))
    task, data = replace(task, batch_size=16, **recipe), small_digits()
    trainer = Trainer(task, "dense", 0.0, 0, options, data)
    net = trainer.model.plain()
    trainer.run()

    decayed = [p for p in net.parameters() if p.dim() > 1 or task.decay_all]
    rest = [p for p in net.parameters() if p.dim() == 1 and not task.decay_all]
    optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": 1e-2}, {"params": rest}], 0.1, momentum=0.9, nesterov=task.nesterov)
    curves, steps, step = [], math.ceil(len(data.train) / 16), 0
    for epoch in range(3):
        net.train()
        for x, y in epoch_batches(data.train, data, 16, 0, epoch, crops=epoch, **AUGMENTATION[task.augmentation]):
            done = epoch / 3 if task.schedule == "cosine_epoch" else step / (3 * steps)
            for group in optimizer.param_groups:
                group["lr"] = task.lr * (1 + math.cos(math.pi * done)) / 2
            optimizer.zero_grad()
            F.cross_entropy(net(x), y, label_smoothing=task.label_smoothing).backward()
            if task.clip:
                nn.utils.clip_grad_norm_(net.parameters(), task.clip)
            optimizer.step()
            step += 1
        net.eval()
        with torch.no_grad():
            images = (data.val.images.permute(0, 3, 1, 2) / 255 - torch.tensor(data.mean).view(-1, 1, 1)) / torch.tensor(data.std).view(-1, 1, 1)
            curves.append(100 * (net(images).argmax(1) == data.val.labels).double().mean().item())
    ours = trainer.model.plain().state_dict()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert [line["val_top1"] for line in trainer.progress.curves] == pytest.approx(curves, abs=1)


def test_weights_that_are_never_pruned_decay_too(monkeypatch):
    """As the option says: all weights, but not biases and normalisation."""
    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.place, self.norm, self.own = nn.Parameter(torch.zeros(64, 16)), nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
            self.head = nn.Linear(16, classes)

        def forward(self, x):
            tokens = self.norm(x.flatten(1).unsqueeze(2) * self.place)
            return self.head(self.own(tokens, tokens, tokens)[0].mean(1))

    monkeypatch.setitem(MODELS, "tokens", Net)
    task, options = settle(Spec("digits", "static", 0.5, 0, options={"model": "tokens"}))
    trainer = Trainer(task, "static", 0.5, 0, options, small_digits())
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    first, second = ({names[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups)
    assert first == {"theta", "net.place", "net.own.in_proj_weight"}
    assert second == {"net.norm.weight", "net.norm.bias", "net.own.in_proj_bias", "net.own.out_proj.bias", "net.head.bias"}
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [task.weight_decay, 0]


def filled(net, seed=0):
    """The network with weights, and statistics of its normalisation, that are all different."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point() and "position" not in name:
                value.copy_(torch.rand(value.shape, generator=generator) * (0.5 if "var" in name or value.dim() == 1 else 0.2) + (
                    0.5 if "var" in name else -0.1))
    return net.eval().double()


def same(net, reference, x):
    """Whether both give the same, with the weights of `net` in their order."""
    state = [value for name, value in net.state_dict().items()]
    other = reference.state_dict()
    assert [value.shape for value in state] == [value.shape for value in other.values()]
    reference.load_state_dict(dict(zip(other, state)))
    with torch.no_grad():
        torch.testing.assert_close(net(x), reference.double().eval()(x))


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_resnet20_is_that_of_torchvisions_blocks():
    def block(inputs, outputs, stride):
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        return BasicBlock(inputs, outputs, stride, shortcut if stride > 1 else None)
    blocks = [block(16, 16, 1), block(16, 16, 1), block(16, 16, 1), block(16, 32, 2), block(32, 32, 1), block(32, 32, 1), block(32, 64, 2),
              block(64, 64, 1), block(64, 64, 1)]
    reference = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
                              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10, bias=False))
    same(filled(build("resnet20", 10)), reference, images(2, 3, 32, 32))


def test_vit_is_that_of_torchs_layers():
    """Beyer et al. (2022): pre-norm layers, fixed positions, the mean over all tokens, no class token."""
    net, x = filled(build("vit_tiny", 10)), images(2, 3, 32, 32)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    with torch.no_grad():
        frequency = 1 / 10000 ** (torch.arange(128, dtype=torch.float64) / 127)
        place = torch.arange(8, dtype=torch.float64)[:, None] * frequency
        column, row = place.repeat(8, 1), place.repeat_interleave(8, 0)
        tokens = net.embedding_norm(net.patch(net.patch_norm(patches))) + torch.cat(
            [column.sin(), column.cos(), row.sin(), row.cos()], 1)
        for layer in net.layers:
            queries, keys, values = layer.qkv(layer.norm1(tokens)).split(6 * 64, 2)
            heads = []
            for head in range(6):
                q, k, v = (part[..., 64 * head:64 * (head + 1)] for part in (queries, keys, values))
                heads.append(torch.softmax(q @ k.transpose(1, 2) / 8, 2) @ v)
            tokens = tokens + layer.out(torch.cat(heads, 2))
            tokens = tokens + layer.mlp2(F.gelu(layer.mlp1(layer.norm2(tokens))))
        torch.testing.assert_close(net(x), net.head(net.norm(tokens.mean(1))), rtol=1e-5, atol=1e-5)  # positions are kept in 32 bits


@pytest.mark.parametrize("name, kind, share, number", [("wrn34x2", nn.Dropout2d, 0.2, 15), ("vgg16_small", nn.Dropout, 0.5, 2), ("resnet20", nn.Dropout, 0.5, 0)])
def test_dropout(name, kind, share, number):
    assert [m.p for m in build(name, 10).modules() if isinstance(m, kind)] == [share] * number
