"""SynFlow, with worked numbers. What it shares with SNIP and GraSP is in test_at_init.py."""
import copy

import pytest
import torch
from canonical import W, linear, near
from scoring import prepared, started
from test_at_init import EYE, IMAGES, LABELS, asked  # noqa: F401
from torch import nn
from torch.nn import functional as F

from benchmarks.models import build, vit
from methods import SparseModel, at_init


def test_a_flow_that_is_no_number_is_refused():
    large = nn.Sequential(linear(torch.full_like(W, 1e200)), linear(torch.full((1, 2), 1e200, dtype=torch.float64)))
    with pytest.raises(ValueError, match="^synflow cannot score this network: a score is not finite$"):
        started(large, "synflow", 0.5, [(EYE, None)], None)


def positive(*sizes):
    """Layers between which flow is conserved, W first."""
    return nn.Sequential(linear(W), nn.ReLU(), linear(torch.tensor([[0.6, -0.2]], dtype=torch.float64)))


def test_synflow_scores(asked):  # noqa: F811
    started(positive(), "synflow", 0.5, [(EYE, None)], None, rounds=1)
    score = 0.63 * asked[0][0]  # the flow is divided by itself, R = .63
    assert score[:6].view(2, 3) == near([[0.3, 0.12, 0.06], [0.01, 0.06, 0.08]])
    assert score[6:] == near([0.48, 0.15])
    assert asked[0][0][:6].sum() == near(1.0) and asked[0][0][6:].sum() == near(1.0)


def test_synflow_conserves_flow_through_what_it_replaces(asked):  # noqa: F811
    def layer(inputs, outputs):
        return nn.Linear(inputs, outputs, bias=False)
    net = nn.Sequential(layer(6, 12), nn.LayerNorm(12), layer(12, 9), nn.GELU(), layer(9, 8), nn.Softmax(-1), nn.Dropout(0.5),
                        layer(8, 4))
    run = started(net, "synflow", 0.5, [(torch.ones(1, 6), None)], None, rounds=3)
    assert len(asked) == 3
    for score, _, _ in asked:
        assert run.model.layout.layer_sums(score.clamp_min(0)) == near([1.0] * 4)


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(4, 8), lambda: nn.GroupNorm(1, 8), lambda: nn.InstanceNorm2d(8, affine=True),
                                  lambda: nn.RMSNorm([8, 4, 4]), lambda: nn.LayerNorm([8, 4, 4])])
def test_synflow_sees_no_normalisation_over_features(asked, norm):  # noqa: F811
    def scores(made):
        torch.manual_seed(0)
        convs = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(128, 5)]
        started(nn.Sequential(convs[0], made(), nn.ReLU(), convs[1], made(), nn.ReLU(), nn.Flatten(), convs[2], nn.LogSoftmax(1)), "synflow", 0.8,
                [(torch.ones(1, 3, 4, 4), None)], None, rounds=1)
        return asked[-1][0]

    assert torch.equal(scores(norm), scores(nn.Identity))


class Attending(nn.Module):
    """A network whose attention, masked or not, is nn.MultiheadAttention's or the same written out."""

    def __init__(self, form):
        super().__init__()
        self.form, self.inside, self.head = form, nn.Linear(6, 16, bias=False), nn.Linear(16, 4, bias=False)
        self.attention = nn.MultiheadAttention(16, 4, bias=False, batch_first=True)

    def forward(self, x):
        x = self.inside(x)
        if self.form == "own":
            q, k, v = F.linear(x, self.attention.in_proj_weight).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
            x = F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), self.attention.out_proj.weight)
        else:
            x = self.attention(x, x, x, need_weights=self.form == "weights")[0]
        return self.head(x.mean(1))


def test_synflow_sees_the_attention_of_torchs_module(asked):  # noqa: F811
    found = {}
    for form in ("own", "plain", "weights"):
        torch.manual_seed(0)
        started(Attending(form), "synflow", 0.5, [(torch.ones(1, 5, 6), None)], None, rounds=1)
        found[form] = asked[-1][0]
    assert torch.allclose(found["plain"], found["own"], rtol=1e-9) and torch.allclose(found["weights"], found["own"], rtol=1e-9)
    assert F.softmax(torch.zeros(2), dim=0).tolist() == [0.5, 0.5]  # torch's is as it was


def test_a_flow_that_is_negative_is_refused():
    class Normalised(nn.Module):
        def forward(self, x):
            return x * x.square().mean(1, keepdim=True).rsqrt()

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="^synflow cannot score this network: it has negative flow, [a-z ]+ over features$"):
        started(nn.Sequential(nn.Linear(6, 8), Normalised(), nn.Linear(8, 4)), "synflow", 0.5, [(torch.ones(1, 6), None)], None)


@pytest.mark.parametrize("bounded", [nn.ReLU6, nn.Hardtanh, lambda: F.relu6])
def test_synflow_is_not_bounded(asked, bounded):  # noqa: F811
    class Large(nn.Module):
        """Its flow is far beyond what the activation lets pass."""

        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = linear(100 * W), linear(torch.ones(1, 2, dtype=torch.float64)), bounded()

        def forward(self, x):
            return self.second(self.act(self.first(x)))
    run = started(Large(), "synflow", 0.5, [(EYE, None)], None, rounds=1)
    assert run.model.layout.layer_sums(asked[0][0]) == near([1, 1])


def test_synflow_of_vit_has_no_normalisation_and_gelu_and_attention_of_constant_sum(asked, monkeypatch):  # noqa: F811
    torch.manual_seed(0)
    net = vit.SimpleViT(dim=16, heads=1, hidden=8, classes=10)
    plain = copy.deepcopy(net).double()
    started(net, "synflow", 0.9, [(IMAGES, None)], None, rounds=1)

    for value in [*plain.parameters(), *plain.buffers()]:
        value.data.abs_()
    monkeypatch.setattr(vit.F, "layer_norm", lambda x, *args: x)
    monkeypatch.setattr(vit.F, "gelu", lambda x: x)


    def attention(q, k, v):
        scores = q @ k.transpose(-2, -1) / 8
        return scores / scores.sum(-1, keepdim=True).detach() @ v

    monkeypatch.setattr(vit.F, "scaled_dot_product_attention", attention)
    flow = plain(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum()
    flow.backward()
    weights = [m.weight for m in plain.modules() if isinstance(m, nn.Linear)]
    expected = torch.cat([(w.grad * w / flow).detach().flatten() for w in weights])
    assert expected.isfinite().all()
    assert torch.allclose(asked[0][0], expected, rtol=1e-9)


def test_synflow_of_vit_does_not_overflow(asked):  # noqa: F811
    # attention without any softmax is cubic: in four layers the flow would grow beyond float64
    torch.manual_seed(0)
    run = started(build("vit_tiny", 10), "synflow", 0.98, [(IMAGES, None)], None, rounds=2)
    assert all(score.isfinite().all() for score, _, _ in asked)
    assert int(run.model.method.mask.sum()) == 84_480


@pytest.fixture(scope="module")
def synflow_resnet():
    """(run, state of the network before, [(number kept, mask)] of each round) on ResNet-20 at 98 %."""
    torch.manual_seed(0)
    rounds, keep = [], at_init.keep
    run = prepared(build("resnet20", 10), "synflow", 0.98, [(IMAGES, LABELS)], F.cross_entropy)
    with torch.no_grad():
        run.theta[:5] = 0
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at_init, "keep", lambda score, k: rounds.append((k, keep(score, k))) or rounds[-1][1])
        run.start()
    return run, before, rounds


def test_synflow_densities(synflow_resnet):
    _, _, rounds = synflow_resnet
    assert len(rounds) == 100
    for k, density in ((1, 0.9616351), (50, 0.1414214), (100, 0.02)):
        assert rounds[k - 1][0] == pytest.approx(density * 270_896, abs=0.55)
        assert int(rounds[k - 1][1].sum()) == rounds[k - 1][0]


def test_synflow_rounds_are_nested(synflow_resnet):
    masks = [mask for _, mask in synflow_resnet[2]]
    assert not any((late & ~early).any() for early, late in zip(masks, masks[1:]))


def test_synflow_leaves_no_layer_empty(synflow_resnet):
    model = synflow_resnet[0].model
    # most flow passes by the 3x3 convolutions beside the 1x1 shortcuts: these may well go
    assert all(n > 0 for n, entry in zip(model.layer_nnz(), model.layout.entries) if "shortcut" not in entry.name)
    assert int(model.method.mask.sum()) == 5_418


def test_synflow_leaves_no_layer_of_a_chain_empty():
    torch.manual_seed(0)
    run = started(build("vgg16_small", 10), "synflow", 0.98, [(IMAGES, None)], None)
    assert min(run.model.layer_nnz()) > 100 and int(run.model.method.mask.sum()) == run.model.method.budget


def test_synflow_restores_the_network(synflow_resnet):
    run, before, _ = synflow_resnet
    mask, state = run.model.method.mask, run.model.state_dict()
    assert torch.equal(run.theta.detach(), before["theta"] * mask) and (before["theta"] < 0).any()
    assert all(torch.equal(state[name], before[name]) for name in before if name.startswith("net."))
    assert run.model.training and run.theta.dtype == torch.float32
    assert all(value.requires_grad for value in run.model.net.parameters())


class Answer:
    def __init__(self, logits):
        self.logits = logits


def test_an_output_in_which_synflow_finds_no_tensor_is_refused():
    net = linear(W)
    net.register_forward_hook(lambda module, args, output: Answer(output))
    with pytest.raises(ValueError, match=r"\Asynflow cannot score this network: it finds no tensor in its output of type Answer\Z"):
        started(net, "synflow", 0.5, [(EYE, None)], None)


def test_synflow_has_no_options_of_data():
    for name in ("n_batches", "restore_bn"):
        with pytest.raises(ValueError, match=f"unknown option of synflow '{name}'"):
            SparseModel(nn.Linear(6, 6), "synflow", 0.5, **{name: 1})


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        later = torch.full((5, 5), -torch.inf, dtype=x.dtype).triu(1)
        return self.out(self.attention(x, x, x, attn_mask=later)[0].mean(1))


def test_attention_with_a_causal_mask_is_scored():
    run = started(Causal(), "synflow", 0.5, [(torch.randn(2, 5, 8), None)], None)
    assert int(run.model.method.mask.sum()) == run.model.method.budget
