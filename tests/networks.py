"""Networks of many kinds, and a training loop around them that is not the suite's."""
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.vision_transformer import VisionTransformer

import methods
from methods import SparseModel, Training

CLASSES = 10


class Odd(nn.Module):
    """Tokens; grouped, depthwise, 1-D and transposed convolutions, tied weights, a frozen layer, one used twice, an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.grouped = nn.Conv1d(8, 12, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose1d(12, 8, 3, stride=2, padding=1, groups=2)
        self.plain_up = nn.ConvTranspose2d(1, 4, (3, 2))
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.down = nn.Conv2d(4, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.twice = nn.Linear(8, 8)
        self.twin = nn.Linear(8, 8, bias=False)
        self.twin.weight = self.twice.weight
        self.head = nn.Linear(8, CLASSES)
        self.decoder = nn.Linear(8, 30, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x):
        h = self.embedding(x).transpose(1, 2)                  # (B, 8, length)
        h = torch.tanh(self.up(torch.relu(self.grouped(h))))   # (B, 8, 2 length − 1)
        h = self.depthwise(self.plain_up(h[:, None]))          # (B, 4, 10, 2 length)
        h = torch.relu(self.norm(self.down(h))).mean((2, 3))
        h = self.twice(torch.relu(self.twice(self.frozen(h)))) + self.twin(h)
        return self.head(torch.relu(h)) + self.decoder(h)[:, :CLASSES]


class Recurrent(nn.Module):
    """Tokens through an LSTM."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True)
        self.hidden = nn.Linear(16, 24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(self.lstm(self.embedding(x))[0][:, -1])))


class Keywords(nn.Module):
    """Several arguments, a layer that no gradient reaches, and a dictionary as output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(4, 8, bias=False), nn.Linear(8, CLASSES)
        self.teacher = nn.Linear(8, CLASSES)

    def forward(self, a, b, *, scale=1.0):
        h = torch.relu(self.first(a) + scale * self.second(b))
        with torch.no_grad():
            teacher = self.teacher(h)
        return {"logits": self.head(h), "teacher": teacher, "loss": None}


def small_vit():
    """Two layers of torchvision's vision transformer."""
    net = VisionTransformer(32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=CLASSES)
    nn.init.normal_(net.heads.head.weight, std=0.1)  # torchvision's zeros let no gradient through to the rest
    return net


def with_images(net, n):
    return net, torch.randn(n, 3, 32, 32), torch.randint(CLASSES, (n,))


def with_tokens(net, n=4, length=6):
    return net, torch.randint(30, (n, length)), torch.randint(CLASSES, (n,))


# {name: function → (network, x (B, ...), targets (B,))}
NETWORKS = {
    "resnet18": lambda: with_images(resnet18(num_classes=CLASSES), 2),
    "mobilenet_v3_small": lambda: with_images(mobilenet_v3_small(num_classes=CLASSES, width_mult=0.25), 4),
    "small_vit": lambda: with_images(small_vit(), 4),
    "odd": lambda: with_tokens(Odd()),
    "lstm": lambda: with_tokens(Recurrent()),
}


class Loop:
    """A training loop of five steps a cycle, as somebody would write it who does not use the suite's."""

    def __init__(self, network, name, sparsity=0.7, skip=(), seed=0):
        torch.manual_seed(seed)
        net, self.x, self.y = NETWORKS[network]()
        quick = {"interval": 2, "rounds": 3, "trials": 2, "trial_batches": 1}
        options = {key: quick[key] for key in methods.get(name).options() if key in quick}
        self.model = SparseModel(net, name, sparsity, skip, **options)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.training = Training(self.model, self.optimizer, epochs=5, steps_per_epoch=1, batches=self.batches)

    def batches(self, n):
        return [(self.x, self.y)] * n

    def step(self):
        torch.manual_seed(self.training.step)  # dropout, and ProbMask's noise
        for _ in range(self.training.passes):
            loss = cross_entropy(self.model(self.x), self.y) / self.training.passes
            loss.backward()
        self.training.update((self.x, self.y))
        return loss.item()

    def state(self):
        return {part: getattr(self, part).state_dict() for part in ("model", "optimizer", "training")}

    def load(self, state):
        for key, value in state.items():
            getattr(self, key).load_state_dict(value)
