"""Layer allocations and the flat layout."""
import pytest
import torch
from canonical import W, linear, near
from torch import nn
from torch.overrides import TorchFunctionMode

from benchmarks.cost import layer_macs, sparse_macs
from benchmarks.models import MODELS, build
from methods.allocation import BY_SHAPE, RANKED, RAW_DENSITY, allocate, count, lamp, of_unit_norm, round_counts, scale_densities, share_counts, whole
from methods.layout import Layout, Spread
from methods.ranking import keep

SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (10, 32)]
SIZES = [432, 4608, 320]
B = torch.tensor([[0.9, -0.6]], dtype=torch.float64)


def three_layers():
    return Layout(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Linear(32, 10)))


def model_layout(name, skip=()):
    with torch.device("meta"):
        net = build(name, 1000 if name in ("resnet50", "mobilenetv1") else 10)
    return net, Layout(net, skip)


def two_layers():
    net = nn.Sequential(linear(W), linear(B))
    layout = Layout(net)
    return layout, layout.flatten([net[0].weight, net[1].weight]).detach()


# ---- the hand-computed table

@pytest.mark.parametrize("name, sparsity, densities", [
    ("erk", 0.9, [0.2563514, 0.0519112, 0.5814050]),
    ("erk", 0.5, [1, 0.4184028, 1]),
    ("er", 0.9, [0.3289406, 0.0779070, 0.1090698]),
])
def test_densities(name, sparsity, densities):
    raw = [RAW_DENSITY[name](shape) for shape in SHAPES]
    budget = count(sum(SIZES), sparsity)
    found = scale_densities(raw, SIZES, budget)
    assert found == near(densities)
    assert sum(d * n for d, n in zip(found, SIZES)) == pytest.approx(budget)
    counts = allocate(three_layers(), name, sparsity)
    assert sum(counts) == budget
    assert all(abs(k - d * n) < 1 for k, d, n in zip(counts, densities, SIZES))


def test_erk_epsilon_and_counts():
    assert [RAW_DENSITY["erk"](shape) * 4.4297521 for shape in SHAPES] == near([0.2563514, 0.0519112, 0.5814050])
    assert allocate(three_layers(), "erk", 0.9) == [111, 239, 186]  # 536
    assert allocate(three_layers(), "erk", 0.5) == [432, 1928, 320]


def test_uniform_plus_counts():
    """By hand: 40 = 536 - 432 - a fifth of 320; without the floor, (2680 - 432) / 4928 of the others."""
    assert allocate(three_layers(), "uniform_plus", 0.9) == [432, 40, 64]
    assert allocate(three_layers(), "uniform_plus", 0.5) == [432, 2102, 146]
    assert allocate(three_layers(), "uniform_plus", 1 - (432 + 4928 // 4) / 5360) == [432, 1152, 80]  # a quarter is above the floor
    linears = Layout(nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 10)))
    assert allocate(linears, "uniform_plus", 0.9) == [5, 5, 20]  # no stem without a convolution
    assert allocate(Layout(nn.Sequential(nn.Linear(20, 50), nn.Linear(50, 2), nn.Linear(2, 1))), "uniform_plus", 0.9) == [99, 10, 1]
    signals = Layout(nn.Sequential(nn.Conv1d(1, 8, 5), nn.Linear(20, 50), nn.Linear(50, 10)))
    assert allocate(signals, "uniform_plus", 0.9) == [40, 14, 100]  # a convolution of one dimension is a stem, too
    two = Layout(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Linear(16, 10)))
    assert allocate(two, "uniform_plus", 0.01) == [432, 154]
    for model in MODELS:
        layout = model_layout(model)[1]
        for sparsity in (0, 1 / 3, 0.5, 0.77, 0.9):
            counts = allocate(layout, "uniform_plus", sparsity)
            assert sum(counts) == count(layout.size, sparsity) and counts[-1] >= round(0.2 * layout.sizes[-1])
            assert all(1 <= k <= n for k, n in zip(counts, layout.sizes))
    with pytest.raises(ValueError, match="cannot keep 296 of 592 weights: the first layer and 20 % of the last have 464"):
        allocate(two, "uniform_plus", 0.5)


def test_balanced_counts():
    """By hand: a third of 536; of 2,680 the first and the last are full, the rest is the second's."""
    assert allocate(three_layers(), "balanced", 0.9) == [179, 178, 179]
    assert allocate(three_layers(), "balanced", 0.5) == [432, 1928, 320]


def test_a_share_s_whole_number_is_free_of_binary_truncation():
    assert [int(0.29 * 100), int(0.7 * 90)] == [28, 62]
    assert [whole(0.29, 100), whole(0.7, 90), whole(0.295, 100), whole(0.0, 7), whole(1.0, 7)] == [29, 63, 29, 0, 7]


def test_er_gse_clips_without_redistribution():
    raw = [RAW_DENSITY["er_gse"](shape) for shape in SHAPES]
    epsilon = 2680 / sum(r * n for r, n in zip(raw, SIZES))
    assert [epsilon * r for r in raw] == near([1.02207, 0.39219, 1.34770], digits=5)
    clipped = scale_densities(raw, SIZES, 2680, redistribute=False)
    assert sum(d * n for d, n in zip(clipped, SIZES)) == near(2559.2, digits=1)
    assert sum(allocate(three_layers(), "er_gse", 0.5)) == 2559
    assert sum(allocate(three_layers(), "er_gse", 0.5, redistribute=True)) == 2680


@pytest.mark.parametrize("model, sparsity, density, digits", [
    ("vgg16_small", 0.9, 0.09957, 5),
    ("vit_tiny", 0.9, 0.09822, 5),
    ("vit_tiny", 0.95, 0.04972, 5),
    ("resnet56", 0.5, 0.4746, 4),
])
def test_er_gse_falls_short(model, sparsity, density, digits):
    layout = model_layout(model)[1]
    assert sum(allocate(layout, "er_gse", sparsity)) / layout.size == near(density, digits)
    assert sum(allocate(layout, "er_gse", sparsity, redistribute=True)) == count(layout.size, sparsity)


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95, 0.98])
def test_er_gse_is_exact_on_resnet56(sparsity):
    layout = model_layout("resnet56")[1]
    assert sum(allocate(layout, "er_gse", sparsity)) == count(layout.size, sparsity)


def ranked(layout, name, theta, k=3):
    """How many weights of each layer are among the k of the highest score."""
    return layout.layer_sums(keep(RANKED[name](layout, theta), k)).tolist()


def test_lamp_and_global():
    layout, theta = two_layers()
    score = lamp(layout, theta)
    assert score[:6].view(2, 3) == near([[1, 0.0740741, 0.0181818], [0.0045249, 0.18, 0.3902439]])
    assert score[6:] == near([1, 0.3076923])
    assert theta[keep(score, 3)].tolist() == [0.5, -0.4, 0.9]
    assert theta[keep(theta.abs(), 3)].tolist() == [0.5, 0.9, -0.6]
    assert ranked(layout, "lamp", theta) == [2, 1] and ranked(layout, "global", theta) == [1, 2]
    theta[6:] /= 10  # by hand: norms .7433 and .1082; .8321 and .5547 of B, .6727 and .5381 of W are the largest shares
    assert ranked(layout, "global", theta) == [3, 0] and ranked(layout, "global_l2", theta) == [1, 2]


def test_lamp_adds_up_on_the_cpu():
    """For torch.use_deterministic_algorithms refuses it on CUDA."""
    class Called(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            called.append(getattr(function, "__name__", ""))
            return function(*args, **(kwargs or {}))
    called, (layout, theta) = [], two_layers()
    with Called():
        lamp(layout, theta)
    assert [called[place - 1] for place, name in enumerate(called) if name == "cumsum"] == ["cpu"] * 2


def test_lamp_leaves_no_layer_empty():
    layout, theta = two_layers()
    theta[6:] *= 1e-6
    assert ranked(layout, "global", theta, 2) == [2, 0]
    assert ranked(layout, "lamp", theta, 2) == [1, 1]


def test_lamp_of_a_layer_of_zeros():
    layout, theta = two_layers()
    theta[6:] = 0
    assert lamp(layout, theta)[6:].tolist() == [0, 0]
    assert ranked(layout, "lamp", theta, 4) == [4, 0]


@pytest.mark.parametrize("name, skip, fractions", [
    ("erk", (), {0.8: 0.4138, 0.9: 0.2418, 0.95: 0.1217, 0.965: 0.0852}),
    ("uniform", ("conv1",), {0.8: 0.2231, 0.9: 0.1260, 0.95: 0.0774, 0.965: 0.0628}),
    ("er_gse", (), {0.9: 0.2490}),
])
def test_resnet50_mac_fraction(name, skip, fractions):
    net, layout = model_layout("resnet50", skip)
    macs = layer_macs(net, (3, 224, 224))
    for sparsity, fraction in fractions.items():
        density = dict.fromkeys(macs, 1.0)
        for entry, kept in zip(layout.entries, allocate(layout, name, sparsity)):
            density[entry.name.removesuffix(".weight")] = kept / entry.size
        assert sparse_macs(macs, density) / sum(macs.values()) == near(fraction, digits=4)


# ---- integers that sum to the budget

@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["erk", "er", "er_gse", "uniform"])
def test_counts_sum_to_the_budget(model, name):
    layout = model_layout(model)[1]
    for sparsity in (0, 0.1, 1 / 3, 0.5, 0.77, 0.9, 0.95, 0.965, 0.98, 0.99):
        counts = allocate(layout, name, sparsity, redistribute=True)
        assert sum(counts) == round(layout.size * (1 - sparsity))
        assert all(type(k) is int and 1 <= k <= n for k, n in zip(counts, layout.sizes))


def test_equal_shares_sum_to_the_total_and_are_monotone():
    """Largest remainders are not: of layers with 6, 6 and 2 weights, the last would get one of its own back where 11 become 10."""
    assert [round_counts([total * n / 14 for n in (6, 6, 2)], total, [6, 6, 2]) for total in (11, 10)] == [[5, 5, 1], [4, 4, 2]]
    generator = torch.Generator().manual_seed(0)
    for sizes in ([6, 6, 2], [1, 1, 1], [1, 50, 3, 3, 999], *torch.randint(1, 60, (30, 7), generator=generator).tolist()):
        before = sizes
        for total in range(sum(sizes), len(sizes) - 1, -1):
            counts = share_counts(sizes, total)
            assert sum(counts) == total and all(1 <= k <= old for k, old in zip(counts, before))
            before = counts
        assert before == [1] * len(sizes)
    assert share_counts([432, 4608, 320], 536) == [43, 461, 32]


@pytest.mark.parametrize("name", BY_SHAPE)
def test_counts_of_odd_shapes(name):
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        widths = torch.randint(1, 12, (6,), generator=generator).tolist()
        net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:])))
        layout = Layout(net)
        for budget in range(5, layout.size + 1, 7):
            try:
                counts = allocate(layout, name, 1 - budget / layout.size, redistribute=True)
            except ValueError:
                assert name == "uniform_plus" and budget < round(0.2 * layout.sizes[-1]) + 4
                continue
            assert sum(counts) == budget
            assert all(1 <= k <= n for k, n in zip(counts, layout.sizes))


def test_rounding_fills_no_layer_beyond_its_size_and_empties_none():
    assert round_counts([1.0, 2.5], 5, [1, 5]) == [1, 4]
    assert round_counts([0.2, 0.3, 4.5], 5, [3, 3, 5]) == [1, 1, 3]
    assert round_counts([1.4, 1.5, 2.1], 5, [3, 3, 3]) == [1, 2, 2]  # by largest remainders


def test_uniform_is_uniform():
    assert allocate(three_layers(), "uniform", 0.75) == [108, 1152, 80]


def test_budget_is_free_of_binary_truncation():
    assert int(1000 * (1 - 0.9)) == 99
    assert count(1000, 0.9) == 100
    # the GSE code's int() keeps 16,978 at .98
    assert [count(848_944, s) for s in (0.9, 0.95, 0.98)] == [84_894, 42_447, 16_979]


@pytest.mark.parametrize("name, sparsity, message", [
    ("erkk", 0.5, "erkk.*erk"),
    ("erk", 0.9995, "leaves 3 weights for 4 layers"),
])
def test_allocation_refuses(name, sparsity, message):
    layout = Layout(nn.Sequential(*(nn.Linear(40, 40) for _ in range(4))))
    with pytest.raises(ValueError, match=message):
        allocate(layout, name, sparsity)


# ---- the flat vector

def test_flat_layout_and_back():
    convs = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 6, (3, 2), groups=6)
    net = nn.Sequential(*convs, nn.Flatten(), nn.Linear(6, 5))
    layout = Layout(net)
    weights = [net[i].weight.detach() for i in (0, 2, 4)]
    flat = layout.flatten(weights)
    assert layout.size == 4 * 6 * 9 + 36 + 30 and flat.shape == (layout.size,)
    assert [e.name for e in layout.entries] == ["0.weight", "2.weight", "4.weight"]
    assert [e.fan_in for e in layout.entries] == [36, 6, 6]  # true fan-in, of the depthwise layer too
    assert all(torch.equal(view, weight) for view, weight in zip(layout.views(flat), weights))
    assert layout.views(flat)[0].is_contiguous(memory_format=torch.channels_last)
    assert layout.filter_sums(flat) == near(torch.cat([w.flatten(1).sum(1) for w in weights]), digits=5)
    assert torch.equal(layout.views(layout.spread_filters(torch.arange(17.0)))[1][:, 0, 0, 0], torch.arange(6.0, 12))
    assert layout.layer_sums(flat) == near([w.sum().item() for w in weights], digits=5)


@pytest.mark.parametrize("per", ["filter", "layer"])
def test_gradients_of_what_is_spread_are_summed_as_autograd_does(per):
    """The form that a GPU takes, so that it adds up in one order."""
    layout = three_layers()
    spread, sums, n = (layout.spread_filters, layout.filter_sums, 58) if per == "filter" else (layout.spread_layers, layout.layer_sums, 3)
    values, upstream = torch.randn(n, dtype=torch.float64, requires_grad=True), torch.randn(layout.size, dtype=torch.float64)
    expected, = torch.autograd.grad((spread(values) * upstream).sum(), values)
    spreaded = Spread.apply(values, spread, sums)
    assert torch.equal(spreaded, spread(values))
    assert torch.autograd.grad((spreaded * upstream).sum(), values)[0] == near(expected, digits=12)


def test_layout_leaves_dense_what_is_not_conv_or_linear():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.out.weight, self.b.weight = self.words.weight, self.a.weight
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

    layout = Layout(Tied())
    assert [entry.names for entry in layout.entries] == [("a.weight", "b.weight")]
    assert layout.size == 16
    assert [name for name, _ in layout.dense] == ["words.weight", "frozen.weight"]
    with pytest.raises(ValueError, match="no weight that can be pruned"):
        Layout(nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4)))


@pytest.mark.parametrize("net, kept", [(nn.Sequential(nn.Conv2d(3, 16, 3)), 43), (nn.Sequential(nn.Linear(10, 10)), 10)])
def test_uniform_plus_of_a_single_layer_is_its_budget(net, kept):
    assert allocate(Layout(net), "uniform_plus", 0.9) == [kept]


def test_global_l2_of_a_layer_of_zeros():
    layout = Layout(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))
    theta = torch.tensor([0.5, -0.2, 0.1, -0.05, 0.3, -0.4, 0, 0])
    assert of_unit_norm(layout, theta)[6:].tolist() == [0, 0] and ranked(layout, "global_l2", theta, 4) == [4, 0]
