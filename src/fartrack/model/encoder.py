"""The whole network in one file, top-down: FARTrack, its blocks, attention.

Shape suffixes of tensors:

    B  search crops in a batch          T  templates of one set
    P  template sets in a batch (B is a multiple of P: several search crops may share one set)
    N  query tokens: search, trajectory, command, in this order
    M  template tokens of one set       L  layers
    D  width                            H  heads            E  width of a head
    V  bins of the vocabulary           S  side of a crop, in pixels

Crops are uint8 RGB ``(…, S, S, 3)``; normalisation with ImageNet's mean and deviation happens here and nowhere
else. Coordinates are those of the search crop's own frame (see :mod:`fartrack.geometry`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fartrack.model.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from fartrack.model.vocabulary import BINS, COMMANDS, ENTRIES


@dataclass
class Output:
    """What one pass gives.

    Attributes:
        logits_B4V: the distribution of each coordinate x0, y0, x1, y1 over the bins.
        search_BND: the search tokens after the final norm, for the training-only dense head.
        attention_BM: if asked for, the attention that each template token receives from the search tokens plus
            that from the command tokens, averaged over layers and heads (the score of sparsification).
        exits: the tapped layers, by their number, counted from 1.
    """

    logits_B4V: Tensor
    search_BND: Tensor
    attention_BM: Tensor | None = None
    exits: dict[int, Exit] = field(default_factory=dict)


@dataclass
class Exit:
    """The tokens of one tapped layer after the shared final norm, and what the tied head makes of the commands.

    Attributes:
        tokens_BND: search, trajectory and command tokens.
        template_BMD: template tokens; None with ``cached`` attention, where they end before a frame begins.
        logits_B4V: as in :class:`Output`, had the network this depth.
    """

    tokens_BND: Tensor
    template_BMD: Tensor | None
    logits_B4V: Tensor


class FARTrack(nn.Module):
    """The tracker's network: templates, a search crop and past boxes in; the four coordinates' distributions out.

    Templates first become a *memory* (:meth:`memorise`), one row a template token: with ``cached`` attention the
    keys and values of every layer, ``(P, 2L, H, M, E)``; with ``joint`` attention the embedded tokens,
    ``(P, 1, 1, M, D)``. Rows may be dropped (pruning), or memories be joined along M, at will.

    Crops of another size than the configuration's are possible (training begins on small ones): the position
    embeddings are resized to their grid.

    Attributes:
        fades: a factor on the residual branches of each layer; 0 makes a layer the identity. All 1, but where
            training deletes layers by fading them out.
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
        self.vocab = nn.Parameter(torch.zeros(ENTRIES, width))
        self.bias = nn.Parameter(torch.zeros(BINS))
        self.fades = [1.0] * config.depth
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
        """Crops ``(B, S, S, 3)`` uint8 RGB → embedded patches ``(B, tokens, D)``, row by row."""
        B, S, _, _ = crops.shape
        p, n = self.config.patch, S // self.config.patch
        patches = crops.reshape(B, n, p, n, p, 3).transpose(2, 3).reshape(B, n * n, p * p, 3).flatten(2)
        # (x − mean) / std lies in the weights, so that pixels are read once, as bytes.
        weight = self.patch.weight.reshape(-1, p * p, 3) / self.std
        bias = self.patch.bias - weight.sum(1) @ self.mean
        return F.linear(patches.to(self.mean.dtype), weight.flatten(1), bias)

    def memorise(self, templates: Tensor, identities: Tensor) -> Tensor:
        """Template crops ``(P, T, S, S, 3)`` uint8 RGB and their identities ``(P, T)`` → memory, M = T · tokens."""
        P, T = templates.shape[:2]
        z = self.patchify(templates.flatten(0, 1))
        z = z + resize_grid(self.pos_z, z.shape[1]) + self.id_z[identities.flatten()][:, None]
        if self.config.attention == "joint":
            return z.reshape(P, 1, 1, -1, self.config.width)
        rows = []
        for block, fade in zip(self.blocks, self.fades, strict=True):
            z, k_BHNE, v_BHNE = block(z, fade=fade)
            rows += [k_BHNE, v_BHNE]
        memory = torch.stack(rows, dim=1)  # (P·T, 2L, H, tokens, E)
        memory = memory.reshape(P, T, *memory.shape[1:]).permute(0, 2, 3, 1, 4, 5)
        return memory.reshape(P, memory.shape[1], self.config.heads, -1, self.config.head_width)

    @staticmethod
    def join(rows: Tensor, index_PT: Tensor) -> Tensor:
        """Memories of single templates ``(U, …, M, C)``, and which T of them make each set → ``(P, …, T · M, C)``."""
        P, T = index_PT.shape
        chosen = rows.index_select(0, index_PT.flatten()).reshape(P, T, *rows.shape[1:])
        return chosen.movedim(1, -3).flatten(-3, -2)

    def forward(
        self,
        search: Tensor,
        trajectory: Tensor,
        memory: Tensor,
        depth: int | None = None,
        with_attention: bool = False,
        valid: Tensor | None = None,
        kept: Tensor | None = None,
        taps: Collection[int] = (),
        tracking: bool = False,
    ) -> Output:
        """One search crop a row against a template memory.

        Args:
            search: ``(B, S, S, 3)`` uint8 RGB.
            trajectory: ``(B, 4 · trajectory)`` tokens of the past boxes in the search crop's frame, oldest first,
                each x0, y0, x1, y1; ``NO_TRAJECTORY`` where there is none.
            memory: of :meth:`memorise`; ``B = P · K`` if K consecutive search crops share each set of templates.
            depth: exit after this many layers instead of the last.
            with_attention: also return the template tokens' scores (slower: the attention matrix is formed).
            valid: ``(B, M)``; template tokens where it is False are as good as removed: nothing attends to them and
                no norm is taken of them. In training, where rows of a batch keep different tokens; to track,
                drop the rows of the memory instead.
            kept: ``(B, n)`` the search tokens to go on with, row by row of the crop; all others are dropped after
                their embedding (training only).
            taps: the layers, counted from 1, to return as exits.
            tracking: do no more than a tracker needs: the last layer is computed for the command tokens alone, and
                ``search_BND`` is empty. A crop smaller than the configuration's is then the centre of the search
                window (the same pixels, its outer tokens missing) instead of the whole of it on a smaller scale.
        """
        B = search.shape[0]
        commands = torch.arange(COMMANDS.start, COMMANDS.stop, device=search.device).expand(B, 4)
        tokens = self.vocab[torch.cat([trajectory, commands], dim=1)] + self.pos_t
        x = self.patchify(search)
        if tracking:
            x = x + centre_grid(self.pos_x, search.shape[1] // self.config.patch) + self.id_x
        else:
            x = x + resize_grid(self.pos_x, x.shape[1]) + self.id_x
        if kept is not None:
            x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))
        searched = x.shape[1]
        x = torch.cat([x, tokens], dim=1)
        if memory.shape[0] != B:
            memory = memory.repeat_interleave(B // memory.shape[0], dim=0)
        joint = self.config.attention == "joint"
        M = memory.shape[-2]
        if joint:
            x = torch.cat([memory[:, 0, 0], x], dim=1)
        mask = None if valid is None else F.pad(valid, (0, x.shape[1] - (M if joint else 0)), value=True)
        rows = memory.unbind(1)  # at once: the gradient of each slice alone would be as large as the whole memory
        scores: list[Tensor] = []
        exits: dict[int, Exit] = {}
        for layer, block in enumerate(cast(list[Block], self.blocks[:depth])):
            cache = None if joint else (rows[2 * layer], rows[2 * layer + 1])
            if with_attention:
                scores.append(block.template_attention(x, cache, M, searched, mask))
            ends = tracking and layer + 1 == (depth or self.config.depth)
            x, _, _ = block(x, cache, mask, self.fades[layer], 4 if ends else None)
            if layer + 1 in taps:
                exits[layer + 1] = self._exit(x, M if joint else 0)
        last = self._exit(x, M if joint and not tracking else 0)
        attention = torch.stack(scores).mean(0) if with_attention else None
        return Output(last.logits_B4V, last.tokens_BND[:, : 0 if tracking else searched], attention, exits)

    def _exit(self, x_BND: Tensor, M: int) -> Exit:
        """What the shared norm and the tied head make of a layer's tokens, the first M of them templates'."""
        x_BND = self.norm(x_BND)
        x_BMD, x_BND = (x_BND[:, :M], x_BND[:, M:]) if M else (None, x_BND)
        return Exit(x_BND, x_BMD, self.head(x_BND[:, -4:]))

    def head(self, tokens: Tensor) -> Tensor:
        """Normed tokens ``(..., D)`` → their logits ``(..., V)`` over the bins."""
        return tokens @ self.vocab[:BINS].T + self.bias


def resize_grid(grid_ND: Tensor, count: int) -> Tensor:
    """Position embeddings of a square grid → those of a grid with ``count`` cells (bicubic)."""
    if len(grid_ND) == count:
        return grid_ND
    old, new = round(len(grid_ND) ** 0.5), round(count**0.5)
    square = grid_ND.T.reshape(1, -1, old, old)
    resized = F.interpolate(square, (new, new), mode="bicubic", align_corners=False, antialias=True)
    return resized.reshape(grid_ND.shape[1], -1).T


def centre_grid(grid_ND: Tensor, side: int) -> Tensor:
    """Position embeddings of a square grid → those of the square of ``side`` cells a side at its centre."""
    whole = round(len(grid_ND) ** 0.5)
    edge = (whole - side) // 2
    square = grid_ND.reshape(whole, whole, -1)
    return square[edge : edge + side, edge : edge + side].flatten(0, 1)


def attend(q_BHNE: Tensor, k_BHAE: Tensor, v_BHAE: Tensor, seen: Tensor | None) -> Tensor:
    """Attention ``(B, H, N, E)`` of the queries to what they see (all, or where ``seen`` is True).

    A processor that learns does it product by product: PyTorch's fused kernel takes three times as long for both
    passes there in bf16, and over ten times for templates alone.
    """
    if q_BHNE.device.type != "cpu" or not q_BHNE.requires_grad:
        return F.scaled_dot_product_attention(q_BHNE, k_BHAE, v_BHAE, seen)
    return attention_weights(q_BHNE, k_BHAE, seen) @ v_BHAE


def attention_weights(q_BHNE: Tensor, k_BHAE: Tensor, seen: Tensor | None) -> Tensor:
    """How much ``(B, H, N, A)`` each query attends to each of what it sees (all, or where ``seen`` is True)."""
    logits = (q_BHNE * q_BHNE.shape[-1] ** -0.5) @ k_BHAE.transpose(-1, -2)
    if seen is not None:
        logits = logits.masked_fill(~seen, -torch.inf)
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
        fade: float = 1.0,
        last: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``(B, N, D)`` and the keys and values ``(B, H, M, E)`` of what they also attend to → the new tokens
        (of the ``last`` few only, if that is given), and the keys and values of all. Of what is attended to,
        ``mask_BA`` is False where it must not be."""
        q, k, v = self.project(self.normalise(self.norm1, x_BND, mask_BA), last)
        if last is not None:
            x_BND = x_BND[:, -last:]
        all_k, all_v = k, v
        if cache is not None:
            all_k, all_v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        seen = None if mask_BA is None else mask_BA[:, None, None]
        y = attend(q, all_k, all_v, seen).transpose(1, 2).flatten(2)
        x_BND = x_BND + self.drop(self.proj(y), fade)
        hidden = F.gelu(self.fc1(self.normalise(self.norm2, x_BND, mask_BA)))
        return x_BND + self.drop(self.fc2(hidden), fade), k, v

    @staticmethod
    def normalise(norm: nn.Module, x_BND: Tensor, mask_BA: Tensor | None) -> Tensor:
        """The norm of the tokens; those that are masked stay as they are (the paper's norm over valid tokens)."""
        if mask_BA is None:
            return cast(Tensor, norm(x_BND))
        return torch.where(mask_BA[:, -x_BND.shape[1] :, None], norm(x_BND), x_BND)

    def template_attention(
        self,
        x_BND: Tensor,
        cache: tuple[Tensor, Tensor] | None,
        M: int,
        search: int,
        mask_BA: Tensor | None = None,
    ) -> Tensor:
        """Attention to the M template tokens ``(B, M)``, averaged over heads: the mean over the ``search`` tokens,
        which follow on the templates (or come first, if these are cached), plus the mean over the last four tokens."""
        q, k, _ = self.project(self.normalise(self.norm1, x_BND, mask_BA))
        first = M
        if cache is not None:
            k, first = torch.cat([cache[0], k], dim=2), 0
        q = torch.cat([q[:, :, first : first + search], q[:, :, -4:]], dim=2)
        seen = None if mask_BA is None else mask_BA[:, None, None]
        weights = attention_weights(q, k, seen)[..., :M].mean(1)
        return weights[:, :-4].mean(1) + weights[:, -4:].mean(1)

    def drop(self, branch: Tensor, fade: float = 1.0) -> Tensor:
        """A residual branch times ``fade``; in training, stochastic depth zeroes a sample's branch with probability
        ``drop_path`` and rescales the rest."""
        if fade != 1:
            branch = branch * fade
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep) / keep
