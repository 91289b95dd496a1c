"""The whole network in one file, top-down: FARTrack, its blocks, attention.

Shape suffixes of tensors:

    B  search crops in a batch          T  templates of one set
    P  template sets in a batch (several search crops may share one: B is a multiple of P)
    N  query tokens: search, trajectory, command, in this order
    M  template tokens of one set       L  layers
    D  width                            H  heads            E  width of a head
    V  bins of the vocabulary           S  side of a crop, in pixels

Crops are uint8 RGB ``(…, S, S, 3)``; they are normalized with ImageNet's mean and deviation here and nowhere else.
Coordinates are those of the search crop's own frame (see :mod:`fartrack.geometry`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fartrack.model.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from fartrack.model.vocabulary import BINS, COMMANDS, ENTRIES


@dataclass
class Output:
    """The tokens of a layer after the final norm, and what the tied head makes of the command tokens.

    Attributes:
        logits_B4V: the distribution of each coordinate x0, y0, x1, y1 over the bins.
        tokens_BND: search, trajectory and command tokens.
        template_BMD: template tokens; None with ``cached`` attention, where they end before a frame begins.
        unnormed_BND: as ``tokens_BND``, before the final norm.
        exits: the same of the layers asked for, by their number, counted from 1.
    """

    logits_B4V: Tensor
    tokens_BND: Tensor
    template_BMD: Tensor | None
    unnormed_BND: Tensor
    exits: dict[int, Output] = field(default_factory=dict)


class FARTrack(nn.Module):
    """The tracker's network: templates, a search crop and past boxes in; the four coordinates' distributions out.

    Templates first become a ``kv_cache`` (:meth:`encode_templates`): with ``cached`` attention the keys and values of
    every layer, ``(P, 2L, H, M, E)``; with ``joint`` attention the embedded tokens, ``(P, 1, 1, M, D)``. It may be
    pruned, or joined with others, along M at will. A search crop that is smaller than the configuration's, on either
    side, is the center of its window: the same pixels, the outer tokens missing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        """Start from random weights (truncated normal, deviation 0.02)."""
        super().__init__()
        self.config = config
        width = config.width
        self.patch = nn.Linear(3 * config.patch**2, width)
        self.pos_z = nn.Parameter(torch.zeros(config.template_tokens, width))
        self.pos_x = nn.Parameter(torch.zeros(config.search_tokens, width))
        self.pos_t = nn.Parameter(torch.zeros(4 * config.trajectory + 4, width))
        self.id_z = nn.Parameter(torch.zeros(config.identities, width))
        self.id_x = nn.Parameter(torch.zeros(1, width))
        self.box_z = nn.Parameter(torch.zeros(width))
        self.vocab = nn.Parameter(torch.zeros(ENTRIES, width))
        self.bias = nn.Parameter(torch.zeros(BINS))
        drops = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(config, drop) for drop in drops)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.aux = nn.Linear(width, 5)  # dense helper of training, see losses.dense_loss; part of no exported graph
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def patchify(self, crops: Tensor) -> Tensor:
        """Crops ``(B, height, width, 3)`` uint8 RGB → embedded patches ``(B, tokens, D)``, row by row."""
        (B, height, width, _), p = crops.shape, self.config.patch
        rows, columns = height // p, width // p
        patches = crops.reshape(B, rows, p, columns, p, 3).transpose(2, 3)
        patches = patches.reshape(B, rows * columns, p * p, 3).flatten(2)
        # (x − mean) / std lies in the weights, so that pixels are read once, as bytes.
        weight = self.patch.weight.reshape(-1, p * p, 3) / self.std
        bias = self.patch.bias - weight.sum(1) @ self.mean
        return F.linear(patches.to(self.mean.dtype), weight.flatten(1), bias)

    def encode_templates(self, templates: Tensor, identities: Tensor, boxes: Tensor) -> Tensor:
        """Template crops ``(P, T, S, S, 3)`` uint8 RGB, their identities ``(P, T)``, and the target's corners in each
        crop's frame ``(P, T, 4)`` → ``kv_cache``, M = T · tokens.

        Each token is told how much of it the target's box covers (token type embeddings; Lin et al., "Tracking Meets
        LoRA", ECCV 2024).
        """
        kv_cache, tokens = self.begin_templates(templates, identities, boxes)
        return kv_cache if tokens is None else torch.cat([kv_cache, self.finish_templates(tokens)], dim=1)

    def begin_templates(self, templates: Tensor, identities: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`encode_templates`, the first ``config.template_layers`` alone: their ``kv_cache``, and the tokens
        ``(P, T, tokens, D)`` that the others go on from, some of which may be left out; None if there are no others."""
        P, T = templates.shape[:2]
        z = self.patchify(templates.flatten(0, 1))
        covered = coverage(boxes.flatten(0, 1), templates.shape[2] // self.config.patch).to(self.box_z.dtype)
        z = z + covered[..., None] * self.box_z
        z = z + self.pos_z + self.id_z[identities.flatten()][:, None]
        if self.config.attention == "joint":
            return z.reshape(P, 1, 1, -1, self.config.width), None
        layers = self.config.template_layers
        kv_cache, tokens = self._pass(z.reshape(P, T, *z.shape[1:]), self.blocks[:layers])
        return kv_cache, tokens if layers < self.config.depth else None

    def finish_templates(self, tokens: Tensor) -> Tensor:
        """The tokens of :meth:`begin_templates` → the ``kv_cache`` of the other layers."""
        return self._pass(tokens, self.blocks[self.config.template_layers :])[0]

    def _pass(self, z_PTND: Tensor, blocks: nn.ModuleList) -> tuple[Tensor, Tensor]:
        """The ``kv_cache`` of some layers, and the tokens behind them."""
        P, T = z_PTND.shape[:2]
        z, keys_values = z_PTND.flatten(0, 1), []
        for block in blocks:
            z, k_BHNE, v_BHNE = block(z)
            keys_values += [k_BHNE, v_BHNE]
        kv_cache = torch.stack(keys_values, dim=1)  # (P·T, 2L, H, tokens, E)
        kv_cache = kv_cache.reshape(P, T, *kv_cache.shape[1:]).permute(0, 2, 3, 1, 4, 5)
        kv_cache = kv_cache.reshape(P, kv_cache.shape[1], self.config.heads, -1, self.config.head_width)
        return kv_cache, z.reshape(z_PTND.shape)

    @staticmethod
    def join(kv_cache: Tensor, index_PT: Tensor) -> Tensor:
        """The cache of U single templates ``(U, …, M, C)``, which T of them make each set → ``(P, …, T · M, C)``."""
        P, T = index_PT.shape
        chosen = kv_cache.index_select(0, index_PT.flatten()).reshape(P, T, *kv_cache.shape[1:])
        return chosen.movedim(1, -3).flatten(-3, -2)

    def forward(
        self,
        search: Tensor,
        trajectory: Tensor,
        kv_cache: Tensor,
        *,
        valid: Tensor | None = None,
        kept: Tensor | None = None,
        exits: Collection[int] = (),
    ) -> Output:
        """The training pass: what the last layer gives, and the ``exits``, layers counted from 1.

        Args:
            search: ``(B, S, S, 3)`` uint8 RGB.
            trajectory: ``(B, 4 · trajectory)`` tokens of the past boxes in the search crop's frame, oldest first,
                each x0, y0, x1, y1; ``NO_TRAJECTORY`` where there is none.
            kv_cache: of :meth:`encode_templates`; ``B = P · K`` if K consecutive search crops share each set.
            valid: ``(B, M)``; template tokens where it is False are as good as removed: nothing attends to them and
                no norm is taken of them.
            kept: ``(B, n)`` the search tokens to go on with; all others are dropped after their embedding.
            exits: the layers that are returned beside the last.
        """
        x, caches, M = self._sequence(self._embed(search, kept) + self.id_x, trajectory, kv_cache)
        joint = M if self.config.attention == "joint" else 0
        mask = None if valid is None else F.pad(valid, (0, x.shape[1] - joint), value=True)
        found: dict[int, Output] = {}
        for layer, (block, cache) in enumerate(zip(self.blocks, caches, strict=True), start=1):
            x, _, _ = block(x, cache, mask)
            if layer in exits or layer == self.config.depth:
                tokens = self.norm(x)
                templates = tokens[:, :joint] if joint else None
                found[layer] = Output(self.head(tokens[:, -4:]), tokens[:, joint:], templates, x[:, joint:])
        return replace(found[self.config.depth], exits={layer: found[layer] for layer in exits})

    def features(self, search: Tensor, kept: Tensor | None = None) -> Tensor:
        """The last layer's tokens ``(B, n, D)`` of search crops ``(B, S, S, 3)`` alone, before the norm: without
        templates and past boxes, as a ViT sees a picture. ``kept`` as in :meth:`forward`."""
        x = self._embed(search, kept)
        for block in self.blocks:
            x, _, _ = block(x)
        return x

    def _embed(self, search: Tensor, kept: Tensor | None = None) -> Tensor:
        """The search tokens, or those that are kept, embedded with their positions."""
        x = self.patchify(search)
        x = x + center_grid(self.pos_x, *(side // self.config.patch for side in search.shape[1:3]))
        return x if kept is None else x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))

    def track(
        self, search: Tensor, trajectory: Tensor, kv_cache: Tensor | Sequence[Tensor], scored: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What a tracker needs, and no more: the last layer is computed for the command tokens alone.

        The arguments are those of :meth:`forward`, but ``kv_cache`` may be apart already, as the tensors along its
        axis 1.

        Returns:
            Logits ``(B, 4, V)``; and, if ``scored``, the attention ``(B, M)`` that each template token receives from
            the search tokens plus that from the command tokens, averaged over layers and heads. In the last layer
            only the command tokens attend.
        """
        x = self._embed(search) + self.id_x
        searched = x.shape[1]
        x, caches, M = self._sequence(x, trajectory, kv_cache)
        # How much the attention of each token counts: a mean over the search tokens and one over the commands.
        counts = (M if self.config.attention == "joint" else 0, searched, trajectory.shape[1], len(COMMANDS))
        shares = torch.cat([x.new_full((n,), s) for n, s in zip(counts, (0, 1 / searched, 0, 0.25), strict=True)])
        received: list[Tensor] = []  # (B, heads, M)
        for layer, (block, cache) in enumerate(zip(cast(list[Block], self.blocks), caches, strict=True), start=1):
            last = layer == self.config.depth
            weights: list[Tensor] | None = [] if scored else None
            x, _, _ = block(x, cache, last=4 if last else None, weights=weights)
            received += [(shares[-4:] if last else shares) @ attention for attention in weights or ()]
        logits = self.head(self.norm(x))
        return (logits, torch.stack(received)[..., :M].mean(dim=(0, 2))) if scored else logits

    def _sequence(
        self, x_BND: Tensor, trajectory: Tensor, kv_cache: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None], int]:
        """The tokens that go through the layers, the keys and values that each layer is given beside, and M."""
        B = x_BND.shape[0]
        commands = torch.arange(COMMANDS.start, COMMANDS.stop, device=x_BND.device).expand(B, 4)
        words = self.vocab[torch.cat([trajectory, commands], dim=1)] + self.pos_t
        if isinstance(kv_cache, Tensor):
            if kv_cache.shape[0] != B:
                kv_cache = kv_cache.repeat_interleave(B // kv_cache.shape[0], dim=0)
            # Unbound at once: the gradient of each slice alone would be as large as the whole cache.
            kv_cache = kv_cache.unbind(1)
        M = kv_cache[0].shape[-2]
        if self.config.attention == "joint":
            return torch.cat([kv_cache[0][:, 0], x_BND, words], dim=1), [None] * self.config.depth, M
        return torch.cat([x_BND, words], dim=1), list(zip(kv_cache[::2], kv_cache[1::2], strict=True)), M

    def head(self, tokens: Tensor) -> Tensor:
        """Normed tokens ``(..., D)`` → their logits ``(..., V)`` over the bins."""
        return tokens @ self.vocab[:BINS].T + self.bias


def coverage(boxes_N4: Tensor, grid: int) -> Tensor:
    """The share ``(N, grid²)`` of each patch of a crop that a box (corners in the crop's frame) covers, row by row."""
    edges = torch.arange(grid + 1, device=boxes_N4.device) / grid
    x, y = (
        (torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])).clamp(min=0) * grid
        for low, high in ((boxes_N4[:, 0], boxes_N4[:, 2]), (boxes_N4[:, 1], boxes_N4[:, 3]))
    )
    return (y[:, :, None] * x[:, None, :]).flatten(1)


def resize_grid(grid_ND: Tensor, count: int) -> Tensor:
    """Position embeddings of a square grid → those of a grid with ``count`` cells (bicubic)."""
    if len(grid_ND) == count:
        return grid_ND
    old, new = round(len(grid_ND) ** 0.5), round(count**0.5)
    square = grid_ND.T.reshape(1, -1, old, old)
    resized = F.interpolate(square, (new, new), mode="bicubic", align_corners=False, antialias=True)
    return resized.reshape(grid_ND.shape[1], -1).T


def center_grid(grid_ND: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings of a square grid → those of the rectangle of so many cells at its center."""
    whole = round(len(grid_ND) ** 0.5)
    top, left = (whole - rows) // 2, (whole - columns) // 2
    square = grid_ND.reshape(whole, whole, -1)
    return square[top : top + rows, left : left + columns].flatten(0, 1)


def attend(
    q_BHNE: Tensor, k_BHAE: Tensor, v_BHAE: Tensor, mask: Tensor | None, weights: list[Tensor] | None = None
) -> Tensor:
    """Attention ``(B, H, N, E)`` of the queries to the keys (all, or where ``mask`` is True); its weights are appended
    to ``weights``.

    With explicit matmuls on a CPU when gradients are needed: PyTorch's fused kernel takes three times as long for both
    passes there in bf16, and over ten times for templates alone.
    """
    if weights is None and (q_BHNE.device.type != "cpu" or not q_BHNE.requires_grad):
        return F.scaled_dot_product_attention(q_BHNE, k_BHAE, v_BHAE, mask)
    own = attention_weights(q_BHNE, k_BHAE, mask)
    if weights is not None:
        weights.append(own)
    return own @ v_BHAE


def attention_weights(q_BHNE: Tensor, k_BHAE: Tensor, mask: Tensor | None) -> Tensor:
    """How much ``(B, H, N, A)`` each query attends to each key (all, or where ``mask`` is True)."""
    logits = (q_BHNE * q_BHNE.shape[-1] ** -0.5) @ k_BHAE.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return torch.softmax(logits, dim=-1)


class Block(nn.Module):
    """A pre-norm transformer layer; its keys and values may be preceded by cached ones."""

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        """One layer of ``config``'s width; its residual branches are dropped with probability ``drop_path``."""
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def project(self, x_BND: Tensor, last: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (of the ``last`` few tokens only, if that is given), keys and values, each ``(B, H, N, E)``."""
        if last is None:
            parts = self.qkv(x_BND).chunk(3, dim=-1)
        else:
            D, weight, bias = x_BND.shape[-1], self.qkv.weight, self.qkv.bias
            kv = F.linear(x_BND, weight[D:], bias[D:])
            parts = F.linear(x_BND[:, -last:], weight[:D], bias[:D]), *kv.chunk(2, dim=-1)
        q, k, v = (part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)
        return q, k, v

    def forward(
        self,
        x_BND: Tensor,
        cache: tuple[Tensor, Tensor] | None = None,
        mask_BA: Tensor | None = None,
        last: int | None = None,
        weights: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``(B, N, D)`` and the cached keys and values ``(B, H, M, E)`` that they also attend to → the new
        tokens (of the ``last`` few only, if that is given), and their own keys and values. Where ``mask_BA`` is
        False, nothing is attended to. The attention ``(B, H, N, A)`` is appended to ``weights``."""
        q, k, v = self.project(self.normalize(self.norm1, x_BND, mask_BA), last)
        if last is not None:
            x_BND = x_BND[:, -last:]
        all_k, all_v = k, v
        if cache is not None:
            all_k, all_v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        mask = None if mask_BA is None else mask_BA[:, None, None]
        y = attend(q, all_k, all_v, mask, weights).transpose(1, 2).flatten(2)
        x_BND = x_BND + self.drop(self.proj(y))
        hidden = F.gelu(self.fc1(self.normalize(self.norm2, x_BND, mask_BA)))
        return x_BND + self.drop(self.fc2(hidden)), k, v

    @staticmethod
    def normalize(norm: nn.Module, x_BND: Tensor, mask_BA: Tensor | None) -> Tensor:
        """The norm of the tokens; masked ones stay as they are (the paper's norm over valid tokens)."""
        if mask_BA is None:
            return cast(Tensor, norm(x_BND))
        return torch.where(mask_BA[:, -x_BND.shape[1] :, None], norm(x_BND), x_BND)

    def drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training, a sample's residual branch is zeroed with probability ``drop_path``, and the
        rest rescaled."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep) / keep
