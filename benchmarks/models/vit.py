"""GSE's small vision transformer (the "simple ViT" of Beyer et al., 2022)."""

import torch
import torch.nn.functional as F
from torch import nn

from .init import fan_in_uniform, scaled

PATCH = 4
GRID = 32 // PATCH
HEAD_DIM = 64


def sincos_embedding(dim: int) -> torch.Tensor:
    """Fixed 2-D sine-cosine position embedding, (GRID * GRID, dim); `dim` must be a multiple of 4."""
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    frequency = 10000 ** -torch.linspace(0, 1, dim // 4)
    x, y = x.flatten()[:, None] * frequency, y.flatten()[:, None] * frequency
    return torch.cat((x.sin(), x.cos(), y.sin(), y.cos()), dim=1)


def attention(query, key, value):
    """softmax(QKᵀ / √d) V of (B, heads, tokens, d). On a CPU, torch's fused operator takes four times as long in bfloat16 as these
    separate ones (benchmarks/README.md)."""
    if query.is_cpu and query.dtype == torch.bfloat16:
        return (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class Layer(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * HEAD_DIM, bias=False)
        self.out = nn.Linear(heads * HEAD_DIM, dim, bias=False)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp1 = nn.Linear(dim, hidden)
        self.mlp2 = nn.Linear(hidden, dim)

    def forward(self, x):
        # (B, tokens, 3 * heads * 64) -> three times (B, heads, tokens, 64); split first, so that one copy assembles their gradient
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, HEAD_DIM)).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in parts)
        attended = attention(query, key, value)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp2(F.gelu(self.mlp1(self.norm2(x))))


class SimpleViT(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, classes: int):
        super().__init__()
        self.patch_norm = nn.LayerNorm(3 * PATCH**2)
        self.patch = nn.Linear(3 * PATCH**2, dim)
        self.embedding_norm = nn.LayerNorm(dim)
        self.register_buffer("position", sincos_embedding(dim), persistent=False)
        self.layers = nn.Sequential(*(Layer(dim, heads, hidden) for _ in range(4)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def reset_parameters(self):
        """Computes the buffer, for a network that was built on the meta device."""
        self.position.copy_(sincos_embedding(self.position.shape[1]))

    def forward(self, x):
        tokens = F.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)
        x = self.embedding_norm(self.patch(self.patch_norm(tokens))) + self.position
        return self.head(self.norm(self.layers(x).mean(1)))


def vit_tiny(classes: int = 10, width: float = 1) -> nn.Module:
    """GSE's ViT: 4x4 patches, 4 layers, dim 512, 6 heads of 64, MLP 256. Input (B, 3, 32, 32), output (B, classes).

    4,224,000 prunable weights in 18 tensors, 10,336 norm parameters, 3,594 biases, 270,013,440 MACs without the attention
    products (10 classes). `width` scales dim, heads and MLP. Raises ValueError where that is not a whole number.
    Source: released code and supplement of GSE.
    """
    dim, heads, hidden = scaled([512, 6, 256], width)
    return fan_in_uniform(SimpleViT(dim, heads, hidden, classes))
