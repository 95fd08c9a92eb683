"""Comparison of PMT and EoMT with recorded outputs of the originals.

tue-mps/pmt and tue-mps/eomt (MIT). The files are described in
tests/data/reference/towers/README.md.
"""

import torch
from comparison import (
    EXACT,
    GRADIENTS,
    LOGITS,
    Comparison,
    compare,
    compare_relative,
)

from clouds_mmseg.conversion.plain_heads import rename
from clouds_mmseg.conversion.target_spec import strip_prefix
from clouds_mmseg.models.backbones.timm_tower import TIMMTower
from clouds_mmseg.models.plain_mask import EoMTHead, PMTHead
from clouds_mmseg.models.plain_mask.pmt import rotary_periods, rotary_table
from clouds_mmseg.weights.load import load_strictly


def check_pmt(config, tensors):
    """Compare levels, every block, all predictions and their gradients."""
    state = strip_prefix('state.', tensors)
    tower = _tower(config, state, norm=True, blocks=config['inter'])
    projection = config.get('lateral', 'mlp')
    head = PMTHead(
        **_of_tower(PMTHead, tower, config),
        num_blocks=config['nb'],
        ffn_channels=config['hidden'],
        projection=projection if projection in ('mlp', 'linear') else 'none',
        residual=config.get('residual', True),
        level_norm=any(key.startswith('bn.') for key in state),
    ).eval()
    renamed, _, _ = _load(tower, head, state)
    yield _complete(state, renamed, tower, head)
    image = _normalised(config, tensors)
    with torch.no_grad():
        *maps, prefix = x = tower(image)
    levels = [
        torch.cat([prefix[:, i], patches.flatten(2).mT], dim=1)
        for i, patches in enumerate(maps)
    ]
    results = {f'encoder.normed.{i}': v for i, v in enumerate(levels)}
    levels = [
        norm(v.flatten(0, 1)).view_as(v)
        for norm, v in zip(head.level_norms, levels, strict=True)
    ]
    results.update({f'encoder.after_bn.{i}': v for i, v in enumerate(levels)})
    for index, level in enumerate(levels):
        value = head.projections[index](level)
        value = level + value if head.residual else value
        results[f'lateral.{index}'] = value * head.scales[index]
    start = head.begin(x)
    count, queries = start.prefix, config['Q']
    results['merged'] = torch.cat(
        [start.tokens[:, :count], start.tokens[:, count + queries :]], dim=1
    )
    size = tuple(config['grid'])
    table = rotary_table(size, rotary_periods(head.head_width, image.device))
    results['rope.sin'], results['rope.cos'] = table.chunk(2, dim=1)
    for name, result in results.items():
        yield compare(name, result, tensors[name], LOGITS)
    yield from _three_cases(config, tensors, tower, head, image, head.blocks)


def check_eomt(config, tensors):
    """Compare tokens, all predictions and all gradients of head and tower."""
    state = strip_prefix('state.', tensors)
    tower = _tower(
        config, state, frozen=False, open_blocks=config['nb']
    ).eval()
    head = EoMTHead(**_of_tower(EoMTHead, tower, config)).eval()
    renamed, _, _ = _load(tower, head, state)
    yield _complete(state, renamed, tower, head)
    image = _normalised(config, tensors)
    blocks = tower.model.blocks[-config['nb'] :]
    yield from _three_cases(config, tensors, tower, head, image, blocks)


def _three_cases(config, tensors, tower, head, image, blocks):
    """Compare with masks, with all masks annealed, and without masks."""
    number, queries = config['nb'], config['Q']
    first = config['depth'] - number if isinstance(head, EoMTHead) else 0
    prefix = config['prefix_tokens']
    probs = head.attn_mask_probs
    recorded = []

    def as_theirs(tokens):
        """Order queries, prefix, patches."""
        order = [
            *range(prefix, prefix + queries),
            *range(prefix),
            *range(prefix + queries, tokens.shape[1]),
        ]
        return tokens[:, order]

    def record(module, args, kwargs, output):
        mask = kwargs.get('attn_mask')
        if mask is not None:
            start = prefix + queries
            mask = mask[:, 0, prefix:start, start:]
        recorded.append((as_theirs(args[0]), mask, as_theirs(output)))

    handles = [
        block.register_forward_hook(record, with_kwargs=True)
        for block in blocks
    ]
    try:
        probs.fill_(1)
        classes, masks = head(tower(image))
        results = _outputs('masked', classes, masks)
        for index, (tokens, mask, output) in enumerate(recorded):
            name = f'masked.tokens_before_block.{first + index}'
            results[name] = tokens
            results[f'masked.normed.{index}'] = head.begin(tower(image)).norm(
                tokens
            )
            results[f'masked.block.{index}'] = output
            name = f'masked.attn_mask.{first + index}'
            yield compare(name, mask, tensors[name], EXACT)
        results[f'masked.normed.{number}'] = head.begin(tower(image)).norm(
            recorded[-1][2]
        )
        for name, result in results.items():
            if name in tensors:
                yield compare(name, result, tensors[name], LOGITS)
        yield from _gradients(tensors, results, tower, head)
        with torch.no_grad():
            last = head.last_prediction(tower(image))
        for kind, ours in zip(('cls', 'mask'), last, strict=True):
            name = f'masked.{kind}.{number}'
            yield compare(f'last {name}', ours, tensors[name], LOGITS)

        probs.fill_(0)
        recorded.clear()
        with torch.no_grad():
            last = head.last_prediction(tower(image))
            classes, masks = head(tower(image))
        for kind, ours, outputs in zip(
            ('cls', 'mask'), last, (classes, masks), strict=True
        ):
            for name in (f'annealed.{kind}.{number}', f'plain.{kind}.0'):
                yield compare(name, ours, tensors[name], LOGITS)
                yield compare(name, outputs[-1], tensors[name], LOGITS)
        for index in range(number):
            name = f'annealed.attn_mask.{first + index}'
            if name in tensors:
                free = torch.ones_like(tensors[name])
                assert recorded[index][1] is None
                yield compare(name, free, tensors[name], EXACT)
            name = f'plain.block.{index}'
            if name in tensors:
                yield compare(name, recorded[index][2], tensors[name], LOGITS)
    finally:
        for handle in handles:
            handle.remove()


def _outputs(case, classes, masks):
    return {
        f'{case}.{kind}.{index}': value
        for kind, values in (('cls', classes), ('mask', masks))
        for index, value in enumerate(values)
    }


def _gradients(tensors, results, tower, head):
    sum(
        (result * tensors[f'gradw.{name}']).sum()
        for name, result in results.items()
        if f'gradw.{name}' in tensors
    ).backward()
    kind = 'pmt' if isinstance(head, PMTHead) else 'eomt'
    theirs, _, _ = rename(
        strip_prefix('masked.grad.', tensors), 'the reference', kind
    )
    modules = dict(backbone=tower, decode_head=head)
    trained = {
        f'{part}.{name}'
        for part, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    yield Comparison(
        f'names of gradients: {sorted(trained ^ set(theirs))[:1]}',
        float(len(trained ^ set(theirs))),
        EXACT,
    )
    for name, grad in theirs.items():
        part, _, rest = name.partition('.')
        ours = modules[part].get_parameter(rest).grad
        yield compare_relative(f'grad {name}', ours, grad, GRADIENTS)


def _tower(config, state, **arguments):
    """Build the tower of the file through timm, random."""
    sizes = dict(
        embed_dim=config['D'],
        depth=config['depth'],
        num_heads=config['heads'],
    )
    if config['kind'] == 'dinov3':
        hidden = len(state['encoder.backbone.blocks.0.mlp.up_proj.bias'])
        name = 'vit_small_patch16_dinov3_qkvb'
        sizes['patch_size'] = config['patch']
    else:
        hidden = len(state['encoder.backbone.blocks.0.mlp.fc1.bias'])
        registers = 'encoder.backbone.reg_token' in state
        name = f'vit_small_patch14_{"reg4_" if registers else ""}dinov2'
        sizes.update(patch_size=config['patch'], img_size=config['img'])
    return TIMMTower(
        name,
        output='tokens',
        mlp_ratio=hidden / config['D'],
        load_pretrained=False,
        **sizes,
        **arguments,
    )


def _of_tower(kind, tower, config):
    """Return the arguments that a segmentor gives the head."""
    return kind.fit_to(
        tower, dict(num_classes=config['ncls'], num_queries=config['Q'])
    )


def _load(tower, head, state):
    """Load all weights, completely."""
    found = rename(state, 'the reference')
    for part, module in (('backbone', tower), ('decode_head', head)):
        load_strictly(
            module,
            strip_prefix(f'{part}.', found[0]),
            source='the reference',
        )
    return found


def _complete(state, renamed, tower, head):
    """Compare the number of values that were loaded with those recorded."""
    ours = sum(
        value.numel()
        for module in (tower, head)
        for value in module.state_dict().values()
    )
    theirs = sum(
        value.numel()
        for key, value in state.items()
        if 'encoder.pixel_' not in key
    )
    return Comparison(f'{len(renamed)} tensors', float(ours - theirs), EXACT)


def _normalised(config, tensors):
    mean, std = (
        torch.tensor(config[name]).view(3, 1, 1)
        for name in ('pixel_mean', 'pixel_std')
    )
    return (tensors['image01'] - mean) / std


# A key that a kind of file has and those below it have not.
KINDS = (
    ('state.decoder.scalers.0', 'pmt', check_pmt),
    ('state.attn_mask_probs', 'eomt', check_eomt),
)
