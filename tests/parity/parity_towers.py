"""Comparison of towers and adapters with recorded outputs of the originals.

Rein (w1oves/Rein, GPL-3.0: numbers alone were recorded) and SoMA
(ysj9909/SoMA, MIT). The files are described in
tests/data/reference/towers/README.md.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from comparison import (
    EXACT,
    GRADIENTS,
    LOGITS,
    MODULES,
    Comparison,
    compare,
    compare_relative,
)

from clouds_mmseg.conversion.target_spec import strip_prefix
from clouds_mmseg.conversion.tower_keys import convnext_to_timm, fuse_qkv
from clouds_mmseg.models.backbones.adapters import QueriedMaps
from clouds_mmseg.models.backbones.lora import LoRALinear
from clouds_mmseg.models.backbones.rein import ReinTokens
from clouds_mmseg.models.backbones.single_scale import (
    resize_kernel,
    resize_table,
    table_for_grid,
)
from clouds_mmseg.models.backbones.timm_tower import TIMMTower
from clouds_mmseg.models.mask2former.head import CLOUDSHead
from clouds_mmseg.weights.load import load_strictly

# Not used by the maps; not in a tower of ours.
_UNUSED = ['model.mask_token', 'model.norm']


def check_rein_module(config, tensors):
    """Compare the tokens alone, in all variants, with their gradients."""
    for variant, options in config['variants'].items():
        state = strip_prefix(f'{variant}.state.', tensors)
        link = options.get('link_token_to_query', True)
        module = ReinTokens(
            config['layers'],
            config['embed_dim'],
            num_tokens=config['token_length'],
            rank=options.get('lora_dim'),
            query_channels=config['query_dims'] if link else None,
            softmax=options.get('use_softmax', True),
            zero_delta=options.get('zero_mlp_delta_f', False),
        )
        # The original has these two layers without a use of them as well.
        idle = [] if link else ['transform', 'merge']
        load_strictly(
            module, state, source='the reference', allow_unexpected=idle
        )
        x = tensors[f'{variant}.in']
        results = {}
        for layer in range(config['layers']):
            x = torch.cat([x[:, :1], module(x[:, 1:], layer)], dim=1)
            results[f'{variant}.out.{layer}'] = x
        results[f'{variant}.out_sequence_first'] = module(
            tensors[f'{variant}.in_sequence_first'], 1
        )
        if link:
            results[f'{variant}.queries'] = module.queries()
        results[f'{variant}.tokens'] = module.tokens()
        for name, result in results.items():
            yield compare(name, result, tensors[name], MODULES)
        _backward(results, tensors)
        for name, parameter in module.named_parameters():
            name = f'{variant}.grad.{name}'
            yield compare_relative(
                name, parameter.grad, tensors[name], GRADIENTS
            )


def check_rein_vit(config, tensors):
    """Compare a ViT with Rein, block by block, at several image sizes."""
    tower = _vit(
        config,
        dict(
            type='Rein',
            num_tokens=config['token_length'],
            rank=config['rank'],
            query_channels=config['query_dims'],
        ),
    )
    state = strip_prefix('state.', tensors)
    load_strictly(
        tower,
        {
            k if k.startswith('reins.') else f'model.{k}': v
            for k, v in state.items()
        },
        source='the reference',
        allow_unexpected=_UNUSED,
    )
    tower.train()
    yield _same_names('trainable', _trained(tower), set(config['trainable']))
    training = {name for name, m in tower.named_modules() if m.training}
    yield _same_names(
        'training_mode_modules', training, set(config['training_mode_modules'])
    )
    for case in config['image_sizes']:
        tower.zero_grad()
        image = tensors[f'{case}.image']
        grid = tuple(side // config['patch'] for side in image.shape[-2:])
        with table_for_grid(tower.model, grid, tower.resize):
            table = tower.model.pos_embed
        results = {f'{case}.pos': table}
        with _recorded(tower.model.blocks) as (inputs, raw, refined):
            maps = tower(image)
        results[f'{case}.tokens0'] = inputs[0]
        for index, (block, rein) in enumerate(zip(raw, refined, strict=True)):
            results[f'{case}.block.{index}'] = block
            results[f'{case}.rein.{index}'] = rein
        results.update({f'{case}.feat.{i}': x for i, x in enumerate(maps)})
        results[f'{case}.queries'] = maps.queries
        for name, result in results.items():
            yield compare(name, result, tensors[name], LOGITS)
        if f'gradw.{case}.queries' not in tensors:
            continue
        _backward(results, tensors)
        for name in config['trainable']:
            grad = tower.get_parameter(name).grad
            name = f'{case}.grad.{name}'
            yield compare_relative(name, grad, tensors[name], GRADIENTS)


def check_rein_convnext(config, tensors):
    """Compare a ConvNeXt with Rein, block by block."""
    tower = TIMMTower(
        'convnext_tiny',
        depths=config['depths'],
        dims=config['channels'],
        adapter=dict(
            type='Rein',
            num_tokens=config['token_length'],
            rank=config['rank'],
            query_channels=config['query_dims'],
        ),
    )
    state = strip_prefix('state.', tensors)
    reins = {k: v for k, v in state.items() if k.startswith('reins.')}
    norms = {k: v for k, v in state.items() if k.startswith('norm')}
    rest = {k: v for k, v in state.items() if k not in {*reins, *norms}}
    renamed = convnext_to_timm(rest)
    load_strictly(
        tower,
        {**{f'model.{k}': v for k, v in renamed.items()}, **reins},
        source='the reference',
    )
    yield _same_names('trainable', _trained(tower), set(config['trainable']))
    blocks = [block for stage in tower.model.stages for block in stage.blocks]
    with _recorded(blocks) as (_, raw, refined):
        maps = tower(tensors['image'])
    results, position = {}, 0
    for stage, depth in enumerate(config['depths']):
        for index in range(depth):
            name = f'stage.{stage}.rein_{{}}.{index}'
            for kind, values in (('in', raw), ('out', refined)):
                tokens = values[position].flatten(2).mT
                results[name.format(kind)] = tokens
            position += 1
        queries = tower.reins[stage].queries()
        results[f'stage.{stage}.queries'] = queries
        # The original normalises the maps.
        x = maps[stage].permute(0, 2, 3, 1)
        x = F.layer_norm(
            x,
            x.shape[-1:],
            norms[f'norm{stage}.weight'],
            norms[f'norm{stage}.bias'],
            config['layernorm_eps'],
        )
        results[f'feat.{stage}'] = x.permute(0, 3, 1, 2)
    results['queries'] = maps.queries
    for name, result in results.items():
        yield compare(name, result, tensors[name], LOGITS)
    _backward(results, tensors)
    for name in config['trainable']:
        grad = tower.get_parameter(name).grad
        name = f'grad.{name}'
        yield compare_relative(name, grad, tensors[name], GRADIENTS)


def check_rein_head(config, tensors):
    """Compare the head that takes the queries of the backbone."""
    head = CLOUDSHead(
        in_channels=[config['in_channels']] * 4,
        num_classes=config['ncls'],
        feat_channels=config['d'],
        out_channels=config['d'],
        num_queries=config['q'],
        queries='backbone',
        num_heads=config['heads'],
        num_groups=config['groups'],
        num_encoder_layers=config['enc'],
        encoder_ffn_channels=config['ffe'],
        num_decoder_layers=config['dec'],
        decoder_ffn_channels=config['ffd'],
    ).eval()
    load_strictly(
        head, strip_prefix('state.', tensors), source='the reference'
    )
    feats = [tensors[f'feat.{i}'] for i in range(4)]
    queries = tensors['queries'].clone().requires_grad_()
    x = QueriedMaps(feats, queries)
    mask_features, memory = head.pixel_decoder(x)
    cls_logits, mask_logits = head(x)
    results = {'pixel_decoder.mask_features': mask_features}
    for name, values in (
        ('pixel_decoder.memory', memory),
        ('cls', cls_logits),
        ('mask', mask_logits),
    ):
        results.update({f'{name}.{i}': v for i, v in enumerate(values)})
    with torch.no_grad():
        cls, mask = head.last_prediction(
            QueriedMaps(feats, tensors['per_image.queries'])
        )
    results['per_image.cls'], results['per_image.mask'] = cls, mask
    for name, result in results.items():
        yield compare(name, result, tensors[name], LOGITS)
    _backward(results, tensors)
    for name in tensors:
        if name.startswith('grad.'):
            of = name.removeprefix('grad.')
            grad = queries.grad if of == 'queries' else None
            if grad is None:
                grad = head.get_parameter(of).grad
            yield compare_relative(name, grad, tensors[name], GRADIENTS)


def check_decomposition(config, tensors):
    """Compare the singular value decomposition of single layers."""
    options = dict(rank=config['r'], scaling=config['alpha'] / config['r'])
    for index in range(len(config['shapes'])):
        name = f'm{index}'
        weight, bias = tensors[f'{name}.W'], tensors[f'{name}.bias']
        x = tensors[f'{name}.x']
        for part in ('minor', 'principal'):
            layer = _linear(weight, bias, options)
            layer.start_from(weight, principal=part == 'principal')
            delta = layer.delta().detach()
            with torch.no_grad():
                layer.weight.sub_(delta)
                y = layer(x)
            # Singular vectors are defined up to their sign.
            low, high = layer.lora_A.weight, layer.lora_B.weight
            theirs = tensors[f'{name}.{part}.A']
            sign = (low * theirs).sum(1).sign()
            for of, ours in (
                ('BA', delta / options['scaling']),
                ('residual', layer.weight),
                ('A', low * sign[:, None]),
                ('B', high * sign),
                ('y', y),
            ):
                key = f'{name}.{part}.{of}'
                yield compare(key, ours, tensors[key], MODULES)
        yield compare(
            f'{name}.y_original', y, tensors[f'{name}.y_original'], MODULES
        )
        layer = _linear(weight, bias, options)
        load_strictly(
            layer,
            strip_prefix(f'{name}.moved.state.', tensors),
            source='the reference',
        )
        x = x.clone().requires_grad_()
        y = layer(x)
        for key, ours in (
            ('y', y),
            ('merged_weight', layer.merged().weight),
        ):
            key = f'{name}.moved.{key}'
            yield compare(key, ours, tensors[key], MODULES)
        (y * tensors[f'{name}.moved.gradw']).sum().backward()
        for key, ours in (
            ('x', x),
            ('bias', layer.bias),
            ('lora_A.weight', layer.lora_A.weight),
            ('lora_B.weight', layer.lora_B.weight),
        ):
            key = f'{name}.moved.grad.{key}'
            yield compare_relative(key, ours.grad, tensors[key], GRADIENTS)


def check_soma_vit(config, tensors):
    """Compare a ViT with SoMA: before, decomposed, moved and merged."""
    adapter = dict(
        type='SoMA',
        rank=config['r'],
        alpha=config['alpha'],
        first_block=config['start_block'],
    )
    case = min(config['image_sizes'])
    image = tensors['same.image']
    plain = _vit(config, None)
    _load_soma(plain, strip_prefix('plain_state.', tensors), 'model.')
    with torch.no_grad():
        yield from _feats('plain', plain(image), tensors)
    # What the constructor does once the pretrained weights are loaded.
    plain.build_adapter(adapter, frozen=True)
    plain.attach_adapter(loaded=True, initialise=True)
    with torch.no_grad():
        yield from _feats('decomposed', plain(image), tensors)
    theirs = fuse_qkv(strip_prefix('decomposed_state.', tensors))
    ours = plain.state_dict()
    for key, value in theirs.items():
        name = f'decomposed_state.{key}'
        if 'lora_' not in key:
            yield compare(name, ours[key], value, MODULES)
            continue
        # Each triplet up to its sign, told by its vector in A.
        low = key.replace('lora_B', 'lora_A')
        sign = (ours[low] * theirs[low]).sum(1).sign()
        if key == low:
            yield compare(name, ours[key] * sign[:, None], value, MODULES)
            continue
        groups = len(sign) // config['r']
        signs = sign.view(groups, 1, -1)
        fixed = (ours[key].unflatten(0, (groups, -1)) * signs).flatten(0, 1)
        yield compare(name, fixed, value, MODULES)

    tower = _vit(config, dict(adapter, svd='random'))
    _load_soma(tower, strip_prefix('state.', tensors))
    wanted = _fused_names(set(config['trainable']) - {'model.mask_token'})
    yield _same_names('trainable', _trained(tower), wanted)
    for case in config['image_sizes']:
        tower.zero_grad()
        with _recorded(tower.model.blocks) as (_, _, blocks):
            maps = tower(tensors[f'{case}.image'])
        results = {f'{case}.feat.{i}': x for i, x in enumerate(maps)}
        results.update({f'{case}.block.{i}': x for i, x in enumerate(blocks)})
        for name, result in results.items():
            yield compare(name, result, tensors[name], LOGITS)
        grads = fuse_qkv(strip_prefix(f'{case}.grad.', tensors))
        if not grads:
            continue
        _backward(results, tensors)
        for name, grad in grads.items():
            yield compare_relative(
                f'{case}.grad.{name}',
                tower.get_parameter(name).grad,
                grad,
                GRADIENTS,
            )
    tower.merge_adapter()
    for case in config['image_sizes']:
        with torch.no_grad():
            maps = tower(tensors[f'{case}.image'])
        for i, x in enumerate(maps):
            name = f'{case}.feat.{i}'
            yield compare(f'merged {name}', x, tensors[name], LOGITS)


def check_soma_merge(config, tensors):
    """Compare joining an adapter file with the converted backbone.

    The frozen weights are the backbone's in full; what the file has besides
    (biases of the backbone) replaces the backbone's.
    """
    backbone = strip_prefix('backbone.', tensors)
    for kind, module in (('state_dict', ''), ('ema_state_dict', 'module.')):
        prefix = f'{module}backbone.model.'
        file = strip_prefix(f'adapter.{kind}|', tensors)
        adapter = strip_prefix(prefix, file)
        merged = strip_prefix(f'merged.{kind}|', tensors)
        joined = fuse_qkv({**backbone, **adapter})
        expected = fuse_qkv(strip_prefix(prefix, merged))
        head = {k: v for k, v in file.items() if not k.startswith(prefix)}
        expected_head = {
            k: v for k, v in merged.items() if not k.startswith(prefix)
        }
        for ours, theirs in ((joined, expected), (head, expected_head)):
            yield _same_names(f'merged.{kind}', set(ours), set(theirs))
            for name, value in theirs.items():
                yield compare(
                    f'merged.{kind}|{name}', ours[name], value, EXACT
                )
        tower = TIMMTower(
            'vit_small_patch14_dinov2',
            embed_dim=config['embed_dim'],
            depth=config['depth'],
            num_heads=1,
            mlp_ratio=len(backbone['blocks.0.mlp.fc1.bias'])
            / config['embed_dim'],
            patch_size=backbone['patch_embed.proj.weight'].shape[-1],
            img_size=backbone['patch_embed.proj.weight'].shape[-1]
            * round((backbone['pos_embed'].shape[1] - 1) ** 0.5),
            resize='bicubic',
            adapter=dict(
                type='SoMA',
                svd='random',
                rank=config['r'],
                alpha=config['alpha'],
                first_block=config['start_block'],
            ),
        )
        # They fit the tower of the same sizes, completely.
        load_strictly(
            tower,
            {f'model.{k}': v for k, v in joined.items()},
            source='the reference',
            allow_unexpected=_UNUSED,
        )


def check_converters(config, tensors):
    """Compare the conversion of pretrained weights to other sizes."""
    table = tensors['rein.in.pos_embed']
    side = round((table.shape[1] - 1) ** 0.5)
    for size, grid in config['rein']['tables'].items():
        if size == 'note':
            continue
        name = f'rein.out{size}.pos_embed'
        channels = tensors[name].shape[-1]
        ours = resize_table(
            table[..., :channels], (side, side), grid, resize='bicubic'
        )
        yield compare(name, ours, tensors[name], MODULES)
    for part, prefix, grids in (
        ('rein', '', None),
        ('soma', '', ([config['soma']['grid']] * 2, config['soma']['tables'])),
        ('eva', '', ([config['eva']['grid']] * 2, config['eva']['table'])),
        (
            'tqdm',
            'visual.',
            (
                [config['tqdm']['grid_in']] * 2,
                [config['tqdm']['grid_out']] * 2,
            ),
        ),
    ):
        key = f'{prefix}patch_embed.proj.weight'
        kernel, theirs = (tensors[f'{part}.{s}.{key}'] for s in ('in', 'out'))
        yield compare(
            f'{part}.out.{key}',
            resize_kernel(kernel, theirs.shape[-2:], 'bicubic'),
            theirs,
            MODULES,
        )
        if grids is None:
            continue
        key = f'{prefix}pos_embed'
        ours = resize_table(
            tensors[f'{part}.in.{key}'], *grids, resize='bicubic'
        )
        name = f'{part}.out.{key}'
        yield compare(name, ours, tensors[name], MODULES)
    # Of the rest nothing changes but that SoMA splits query, key, value.
    ours = fuse_qkv(strip_prefix('soma.out.', tensors))
    theirs = strip_prefix('soma.in.', tensors)
    yield _same_names('soma.out', set(ours), set(theirs))
    for name, value in theirs.items():
        if name not in ('pos_embed', 'patch_embed.proj.weight'):
            yield compare(f'soma.out.{name}', ours[name], value, EXACT)


def _vit(config, adapter):
    return TIMMTower(
        'vit_small_patch14_dinov2',
        embed_dim=config['embed_dim'],
        depth=config['depth'],
        num_heads=config['heads'],
        mlp_ratio=config['mlp_ratio'],
        patch_size=config['patch'],
        img_size=config['table_image_size'],
        blocks=config['out_indices'],
        resize='bicubic',
        adapter=adapter,
    )


def _load_soma(tower, state, prefix=''):
    state = {f'{prefix}{k}': v for k, v in fuse_qkv(state).items()}
    load_strictly(
        tower, state, source='the reference', allow_unexpected=_UNUSED
    )


def _feats(prefix, maps, tensors):
    for index, ours in enumerate(maps):
        name = f'{prefix}.feat.{index}'
        yield compare(name, ours, tensors[name], LOGITS)


def _linear(weight, bias, options):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return LoRALinear(layer, **options)


def _trained(module):
    return {n for n, p in module.named_parameters() if p.requires_grad}


def _fused_names(names):
    return set(fuse_qkv({name: torch.zeros(1) for name in names}))


def _same_names(name, ours, theirs):
    different = ours ^ theirs
    shown = min(different, default=f'{len(ours)} names')
    return Comparison(f'{name}: {shown}', float(len(different)), EXACT)


def _backward(results, tensors):
    sum(
        (result * tensors[f'gradw.{name}']).sum()
        for name, result in results.items()
        if f'gradw.{name}' in tensors
    ).backward()


@contextmanager
def _recorded(blocks):
    """Record inputs and outputs of blocks, before and after an adapter."""
    inputs, raw, refined = [], [], []
    handles = []

    def keep(kept):
        # append returns None, which leaves the output as it is.
        return lambda module, args, output: kept.append(output)

    for block in blocks:
        handles += [
            block.register_forward_pre_hook(
                lambda module, args: inputs.append(args[0])
            ),
            block.register_forward_hook(keep(raw), prepend=True),
            block.register_forward_hook(keep(refined)),
        ]
    try:
        yield inputs, raw, refined
    finally:
        for handle in handles:
            handle.remove()


# A key that a kind of file has and those below it have not.
KINDS = (
    ('lora.in_sequence_first', 'rein module', check_rein_module),
    ('state.querys2feat.', 'rein head', check_rein_head),
    ('state.downsample_layers.', 'rein convnext', check_rein_convnext),
    ('state.reins.', 'rein vit', check_rein_vit),
    ('plain_state.', 'soma vit', check_soma_vit),
    ('m0.minor.', 'soma svd', check_decomposition),
    ('adapter.state_dict|', 'soma merge', check_soma_merge),
    ('rein.out512.', 'converters', check_converters),
)
