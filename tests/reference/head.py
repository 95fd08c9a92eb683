"""Mask2Former's head as a function of a ``state_dict``."""

import math

import torch
import torch.nn.functional as F

from .attention import sample_by_grid


def sine_code(h, w, channels, device=None):
    ones = torch.ones(1, h, w, device=device)
    y, x = ones.cumsum(1), ones.cumsum(2)
    y = y / (y[:, -1:] + 1e-6) * 2 * math.pi
    x = x / (x[:, :, -1:] + 1e-6) * 2 * math.pi
    half = channels // 2
    i = torch.arange(half, device=device)
    period = 10000 ** (2 * torch.div(i, 2, rounding_mode='floor') / half)
    codes = []
    for axis in (y, x):
        phase = axis[..., None] / period
        code = torch.empty_like(phase)
        code[..., 0::2] = phase[..., 0::2].sin()
        code[..., 1::2] = phase[..., 1::2].cos()
        codes.append(code)
    return torch.cat(codes, dim=-1).permute(0, 3, 1, 2)


class PlainHead:
    """Classes and masks of every query, all of them at full size.

    Args:
        state (dict): Parameters or weights under MMSegmentation's names.
        heads (int): Of every attention.
        groups (int): Of every group normalisation.
        synonyms (list[int]): Text embeddings of each class.
        text (Tensor): They, (sum of synonyms, channels).
    """

    def __init__(self, state, *, heads, groups, synonyms=None, text=None):
        self.state, self.heads, self.groups = state, heads, groups
        self.synonyms, self.text = synonyms, text

    def linear(self, name, x):
        s = self.state
        return F.linear(x, s[f'{name}.weight'], s[f'{name}.bias'])

    def norm(self, name, x):
        s = self.state
        w, b = s[f'{name}.weight'], s[f'{name}.bias']
        return F.layer_norm(x, x.shape[-1:], w, b)

    def conv(self, name, x):
        s = self.state
        w = s[f'{name}.conv.weight']
        bias = s.get(f'{name}.conv.bias')
        x = F.conv2d(x, w, bias, padding=w.shape[-1] // 2)
        gn = s[f'{name}.gn.weight'], s[f'{name}.gn.bias']
        return F.group_norm(x, self.groups, *gn)

    def ffn(self, name, x):
        y = self.linear(f'{name}.layers.0.0', x).relu()
        return x + self.linear(f'{name}.layers.1', y)

    def mlp(self, name, x):
        x = self.linear(f'{name}.0', x).relu()
        return self.linear(f'{name}.4', self.linear(f'{name}.2', x).relu())

    def count(self, prefix):
        keys = [k.removeprefix(prefix) for k in self.state]
        numbers = {k.split('.')[0] for k in keys if k[0].isdigit()}
        return len(numbers)

    def attend(self, name, query, key, value, mask=None):
        s, heads = self.state, self.heads
        ws = s[f'{name}.in_proj_weight'].chunk(3)
        bs = s[f'{name}.in_proj_bias'].chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), ws, bs, strict=True)
        )
        score = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        if mask is not None:
            score = score.masked_fill(mask[:, None], float('-inf'))
        out = (score.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.linear(f'{name}.out_proj', out)

    def deform(self, name, x, position, shapes):
        n, tokens, _ = x.shape
        query = x + position
        offsets = self.linear(f'{name}.sampling_offsets', query)
        offsets = offsets.view(n, tokens, self.heads, 3, -1, 2)
        weights = self.linear(f'{name}.attention_weights', query)
        weights = weights.view(n, tokens, self.heads, -1).softmax(-1)
        weights = weights.view(offsets.shape[:-1])
        centres = []
        for h, w in shapes:
            y, x_ = torch.meshgrid(
                (torch.arange(h, device=x.device) + 0.5) / h,
                (torch.arange(w, device=x.device) + 0.5) / w,
                indexing='ij',
            )
            centres.append(torch.stack([x_, y], dim=-1).view(-1, 2))
        centres = torch.cat(centres)[None, :, None, None, None]
        size = offsets.new_tensor([[w, h] for h, w in shapes])[:, None]
        value = self.linear(f'{name}.value_proj', x)
        out = sample_by_grid(
            value.unflatten(-1, (self.heads, -1)),
            shapes,
            centres + offsets / size,
            weights,
        )
        return x + self.linear(f'{name}.output_proj', out)

    def pixel_decoder(self, feats):
        s, prefix = self.state, 'pixel_decoder'
        maps = [
            self.conv(f'{prefix}.input_convs.{i}', feats[3 - i])
            for i in range(3)
        ]
        shapes = [m.shape[-2:] for m in maps]
        levels = s[f'{prefix}.level_encoding.weight']
        position = torch.cat(
            [
                (
                    sine_code(*m.shape[-2:], m.shape[1], m.device)
                    + e[:, None, None]
                )
                .flatten(2)
                .transpose(1, 2)
                for m, e in zip(maps, levels, strict=True)
            ],
            dim=1,
        )
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        for i in range(self.count(f'{prefix}.encoder.layers.')):
            layer = f'{prefix}.encoder.layers.{i}'
            x = self.deform(f'{layer}.self_attn', x, position, shapes)
            x = self.norm(f'{layer}.norms.0', x)
            x = self.norm(f'{layer}.norms.1', self.ffn(f'{layer}.ffn', x))
        parts = x.split([h * w for h, w in shapes], dim=1)
        multi_scale_features = [
            p.transpose(1, 2).view(m.shape)
            for p, m in zip(parts, maps, strict=True)
        ]
        fine = self.conv(f'{prefix}.lateral_convs.0', feats[0])
        fine = fine + F.interpolate(
            multi_scale_features[-1], size=fine.shape[-2:], mode='bilinear'
        )
        fine = self.conv(f'{prefix}.output_convs.0', fine).relu()
        w, b = (s[f'{prefix}.mask_feature.{x}'] for x in ('weight', 'bias'))
        return F.conv2d(fine, w, b), multi_scale_features

    def classify(self, query, features, masks):
        if self.text is None:
            return self.linear('cls_embed', query)
        name = 'cls_embed'
        covered = (masks > 0).float()
        covered = covered / (covered.sum((-1, -2), keepdim=True) + 1e-8)
        pooled = torch.einsum('bchw,bqhw->bqc', features, covered)
        pooled = self.norm(f'{name}.mask_pooling_proj.0', pooled)
        pooled = self.linear(f'{name}.mask_pooling_proj.1', pooled)
        x = F.normalize(self.mlp(f'{name}.embed', query + pooled), dim=-1)
        void = F.normalize(self.state[f'{name}.void_embedding.weight'], dim=-1)
        scale = self.state[f'{name}.logit_scale'].exp().clamp(max=100)
        similarity = scale * x @ torch.cat([self.text, void]).T
        logits, start = [], 0
        for count in [*self.synonyms, 1]:
            logits.append(similarity[..., start : start + count].amax(-1))
            start += count
        return torch.stack(logits, dim=-1)

    def forward(self, feats):
        s = self.state
        features, maps = self.pixel_decoder(feats)
        query = s['query_feat.weight'].expand(len(features), -1, -1)
        place = s['query_embed.weight']
        outputs = []
        layers = self.count('transformer_decoder.layers.')
        for i in range(layers + 1):
            normed = self.norm('transformer_decoder.post_norm', query)
            masks = torch.einsum(
                'bqc,bchw->bqhw', self.mlp('mask_embed', normed), features
            )
            outputs.append((self.classify(normed, features, masks), masks))
            if i == layers:
                return [list(x) for x in zip(*outputs, strict=True)]
            source = maps[i % 3]
            size = source.shape[-2:]
            hidden = F.interpolate(masks, size=size, mode='bilinear')
            hidden = hidden.flatten(2).sigmoid() < 0.5
            hidden[hidden.all(-1)] = False
            value = source + s['level_embed.weight'][i % 3][:, None, None]
            key = value + sine_code(*size, value.shape[1], value.device)
            value, key = (x.flatten(2).transpose(1, 2) for x in (value, key))
            layer = f'transformer_decoder.layers.{i}'
            read = self.attend(
                f'{layer}.cross_attn.attn', query + place, key, value, hidden
            )
            query = self.norm(f'{layer}.norms.0', query + read)
            both = query + place
            read = self.attend(f'{layer}.self_attn.attn', both, both, query)
            query = self.norm(f'{layer}.norms.1', query + read)
            query = self.ffn(f'{layer}.ffn', query)
            query = self.norm(f'{layer}.norms.2', query)

    def scores(self, cls_logits, mask_logits, size):
        masks = F.interpolate(mask_logits, size=size, mode='bilinear')
        classes = cls_logits.softmax(-1)[..., :-1]
        return torch.einsum('bqc,bqhw->bchw', classes, masks.sigmoid())
