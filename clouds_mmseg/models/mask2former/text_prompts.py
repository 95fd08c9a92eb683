"""Text embeddings of classes with learned contexts, refined by the image.

The text side of tqdm (ECCV 2024, section 3.2): the prompts of CoOp, and the
context decoder of DenseCLIP. Letters: N images, K classes, n tokens of a
name, T tokens of a prompt, W width of the text encoder, D dimensions of the
joint space, M tokens of an image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_mmseg.models.backbones.clip_source import build_text, find_clip
from clouds_mmseg.models.text_embeddings import (
    find_tokenizer,
    load_text_tower,
)
from clouds_mmseg.utils.errors import UserError

# What the learned prompts are compared with.
TEMPLATE = 'a clean origami of a {}'


class TextEncoder(nn.Module):
    """The text encoder of a CLIP model, frozen, for embedded prompts.

    Args:
        tower: A text tower of open_clip (``TextTransformer``, or a ``CLIP``
            that has its parts). Its modules are taken over.
        length: T. Later positions of the tower are dropped.
    """

    def __init__(self, tower: nn.Module, length: int):
        super().__init__()
        positions = tower.positional_embedding.detach()
        if length > len(positions):
            raise UserError(
                f'text.context_length={length}, but the text encoder has '
                f'{len(positions)} positions'
            )
        if not isinstance(tower.text_projection, nn.Parameter):
            raise UserError(
                'text.model_name: this text encoder has no plain projection '
                "into CLIP's space; EVA02-L-14-336 and the CLIP models of "
                'OpenAI have'
            )
        self.token_embedding = tower.token_embedding
        self.positional_embedding = nn.Parameter(positions[:length].clone())
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.text_projection = tower.text_projection
        mask = torch.full((length, length), float('-inf')).triu(1)
        self.register_buffer('mask', mask, persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> 'TextEncoder':
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, embedded: Tensor, last: Tensor) -> Tensor:
        """Encode prompts.

        Args:
            embedded: (K, T, W), embedded tokens without positions.
            last: (K,), the position of each end token.

        Returns:
            (K, D), not normalised.
        """
        x = embedded + self.positional_embedding
        x = self.ln_final(self.transformer(x, attn_mask=self.mask))
        rows = torch.arange(len(x), device=x.device)
        return x[rows, last] @ self.text_projection


class LearnedPrompts(nn.Module):
    """Embeddings of classes: learned contexts, and the image's influence.

    A prompt is the start token, the contexts (shared by the classes), the
    name and the end token. Its encoding has ``gamma`` times the output of
    the context decoder added, which looks at the image.

    Args:
        encoder: The frozen text encoder.
        names: (K, n) token ids of the names, with start and end.
        sentences: (K, T) token ids of fixed sentences about the classes.
        decoder: Arguments of :class:`ContextDecoder`.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        names: Tensor,
        sentences: Tensor,
        decoder: dict | None = None,
    ):
        super().__init__()
        length, width = encoder.positional_embedding.shape
        self.channels = encoder.text_projection.shape[1]
        count = length - names.shape[1]
        self.encoder = encoder
        self.contexts = nn.Parameter(torch.empty(1, count, width))
        self.gamma = nn.Parameter(torch.empty(self.channels))
        # Standard deviations of 1, as in the original.
        nn.init.trunc_normal_(self.contexts)
        nn.init.trunc_normal_(self.gamma)
        self.context_decoder = ContextDecoder(self.channels, **decoder or {})
        self.register_buffer('names', names, persistent=False)
        self.register_buffer('sentences', sentences, persistent=False)

    def encode(self) -> Tensor:
        """Encode the prompts: (K, D)."""
        x = self.encoder.token_embedding(self.names)  # (K, n, W)
        contexts = self.contexts.expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], contexts, x[:, 1:]], dim=1)
        # The end token has the greatest id.
        last = self.names.argmax(dim=1) + contexts.shape[1]
        return self.encoder(x, last)

    @torch.no_grad()
    def fixed(self) -> Tensor:
        """Encode the fixed sentences: (K, D), of unit length."""
        x = self.encoder.token_embedding(self.sentences)
        x = self.encoder(x, self.sentences.argmax(dim=1))
        return F.normalize(x, dim=-1)

    def forward(self, image: Tensor, dense: Tensor) -> Tensor:
        """Embed the classes for each image.

        Args:
            image: (N, D), the feature of the image.
            dense: (N, D, h, w), those of its patches.

        Returns:
            (N, K, D), not normalised.
        """
        memory = torch.cat([image[:, None], dense.flatten(2).mT], dim=1)
        # Not kept between calls: mmengine's moving averages change weights
        # through `.data`, which their version counters do not notice.
        text = self.encode().expand(image.shape[0], -1, -1)
        return text + self.gamma * self.context_decoder(text, memory)


class ContextDecoder(nn.Module):
    """Let text embeddings attend to the features of an image.

    Args:
        channels: D.
        width: Channels inside.
        num_heads: Attention heads.
        num_layers: Layers.
        dropout: Probability.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 256,
        num_heads: int = 4,
        num_layers: int = 3,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.memory_proj = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, width),
            nn.LayerNorm(width),
        )
        self.text_proj = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width)
        )
        self.decoder = nn.ModuleList(
            _ContextLayer(width, num_heads, dropout) for _ in range(num_layers)
        )
        self.out_proj = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, channels)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, memory: Tensor) -> Tensor:
        """Map text (N, K, D), with an image's tokens (N, M, D): (N, K, D)."""
        x, memory = self.text_proj(text), self.memory_proj(memory)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.out_proj(x)


class _ContextLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a norm."""

    def __init__(self, width, num_heads, dropout):
        super().__init__()
        self.self_attn = _ContextAttention(width, num_heads, dropout)
        self.cross_attn = _ContextAttention(width, num_heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )

    def forward(self, x, memory):
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed)
        x = x + self.cross_attn(self.norm2(x), memory)
        return x + self.dropout(self.mlp(self.norm3(x)))


class _ContextAttention(nn.Module):
    """Attention of x (N, K, C) to memory (N, M, C)."""

    def __init__(self, width, num_heads, dropout):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, memory):
        q, k, v = (
            layer(of).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, of in (
                (self.q_proj, x),
                (self.k_proj, memory),
                (self.v_proj, memory),
            )
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.dropout(self.proj(out.transpose(1, 2).flatten(2)))


def build_prompts(
    *,
    classes: Sequence[str],
    model_name: str | None = None,
    pretrained: str | None = None,
    context_length: int = 13,
    num_contexts: int = 8,
    template: str = TEMPLATE,
    decoder: dict | None = None,
    load_pretrained: bool = True,
) -> LearnedPrompts:
    """Build the text side of a head.

    Args:
        classes: Names of the K classes, in their order.
        model_name: CLIP model whose text encoder is taken, see
            :func:`~clouds_mmseg.models.backbones.clip_source.find_clip`; it
            has to be that of the visual tower.
        pretrained: Its weights, likewise.
        context_length: T, all tokens of a prompt.
        num_contexts: Learned tokens in it.
        template: A sentence with one ``{}``, for the fixed embeddings.
        decoder: Arguments of :class:`ContextDecoder`.
        load_pretrained: False leaves the weights random, for a checkpoint.

    Raises:
        UserError: A name is longer than a prompt, or the model has no text
            encoder of this kind.
        MissingWeightsError: The weights are not available.
    """
    if not 0 < num_contexts < context_length - 2:
        raise UserError(
            f'text.num_contexts={num_contexts} of a '
            f'text.context_length={context_length}: there must be one at '
            'least, and room for a name between start and end'
        )
    if template.count('{}') != 1:
        raise UserError(
            "text.template needs one '{}' where the name goes, got "
            f'{template!r}'
        )
    source = find_clip(model_name, pretrained, weights=load_pretrained)
    if load_pretrained and source.weights:
        model = load_text_tower(source)
    else:
        # The device that parts are built on, which may be meta.
        device = torch.empty(0).device.type
        model = build_text(source.model, source.quick_gelu, device)
    tower = getattr(model, 'text', model)
    encoder = TextEncoder(tower, context_length)
    tokenizer = find_tokenizer(source)
    return LearnedPrompts(
        encoder,
        tokenize(tokenizer, classes, context_length - num_contexts),
        tokenize(
            tokenizer,
            [template.format(name) for name in classes],
            context_length,
        ),
        decoder,
    )


def tokenize(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """Return the token ids of texts, padded with zeros.

    Args:
        tokenizer: Of open_clip.
        texts: K texts.
        length: Tokens of a text, start and end included.

    Returns:
        (K, length) int64.

    Raises:
        UserError: A text is longer: open_clip would cut it silently.
    """
    # On the CPU also where a model is built on the meta device.
    with torch.device('cpu'):
        ids = tokenizer(list(texts), context_length=length)
        whole = tokenizer(list(texts), context_length=length + 64)
    for text, tokens in zip(texts, whole, strict=True):
        needed = int((tokens != 0).sum())
        if needed > length:
            raise UserError(
                f'{text!r} has {needed} tokens, and there is room for '
                f'{length}: give a greater text.context_length (but '
                'checkpoints of tqdm have 13) or a shorter name'
            )
    return ids
