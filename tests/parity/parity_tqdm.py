"""Comparison of tqdm's text queries with recorded outputs of the original.

ByeongHyunPak/tqdm (MIT). The file is described in
tests/data/reference/towers/README.md.
"""

import open_clip
import timm
import torch
from comparison import (
    EXACT,
    GRADIENTS,
    LOGITS,
    LOSSES,
    MODULES,
    Comparison,
    compare,
    compare_relative,
)

from clouds_mmseg.conversion.target_spec import strip_prefix
from clouds_mmseg.conversion.tower_checkpoints import (
    TQDM,
    convert_tower_checkpoint,
    rename_tqdm,
)
from clouds_mmseg.models.backbones.clip_tower import TIMMCLIPTower
from clouds_mmseg.models.mask2former.criterion import (
    assign_fixed,
    count_masks,
    predict_matched_masks,
)
from clouds_mmseg.models.mask2former.text_prompts import (
    LearnedPrompts,
    TextEncoder,
    tokenize,
)
from clouds_mmseg.models.mask2former.text_query_head import TextQueryHead
from clouds_mmseg.weights.load import load_strictly


def check_tqdm(config, tensors):
    """Compare the whole segmentor: tower, text, head, losses, gradients."""
    yield from _tokens(config, tensors)
    yield from _assignment(config, tensors)
    backbone, head = build(config, tensors)
    for name, result in _results(config, backbone, head, tensors).items():
        yield compare(name, result, tensors[name], LOGITS)
    yield compare('reg_T0', head.text.fixed(), tensors['reg_T0'], MODULES)
    named = _losses(config, backbone, head, tensors)
    for name, value in named.items():
        theirs = tensors[f'loss.{name}'].reshape(())
        yield compare(f'loss.{name}', value, theirs, LOSSES)
    recorded = {n for n in config['loss_names'] if 'acc' not in n}
    different = recorded ^ set(named)
    yield Comparison(
        f'names of losses: {min(different, default="the same")}',
        float(len(different)),
        EXACT,
    )
    total = sum(named.values())
    theirs = tensors['loss.total'].reshape(())
    # A sum of fifteen that is near 50.
    yield compare('loss.total', total, theirs, LOGITS)
    total.backward()
    yield from _gradients('loss.grad.', backbone, head, tensors)
    for image in range(len(tensors['image'])):
        yield from _targets(config, tensors, image)
    # Some gradients are 1e-5 of others, and their rounding 1e-4 of them: here
    # ours have none.
    for module in (backbone, head):
        module.double()
    doubles = dict(tensors, image=tensors['image'].double())
    results = _results(config, backbone, head, doubles)
    sum(
        (result * tensors[f'gradw.{name}']).sum()
        for name, result in results.items()
        if f'gradw.{name}' in tensors
    ).backward()
    yield from _gradients('grad.', backbone, head, tensors)


def _results(config, backbone, head, tensors):
    """Compute everything that a file has but losses."""
    blocks, layers = [], []
    handles = [
        block.register_forward_hook(lambda m, a, out: blocks.append(out))
        for block in backbone.model.blocks
    ]
    for layer in head.pixel_decoder.encoder.layers:
        handles += _record(layer, layers)
    x = head.with_text(backbone(tensors['image']))
    mask_features, memory = head.pixel_decoder(x)
    for handle in handles:
        handle.remove()
    cls_logits, mask_logits = head(x)
    encoded = head.text.encode()
    results = {
        'backbone.global': x.image[:, None],
        'backbone.dense': x.dense,
        'reg_E0.global': x.initial_image[:, None],
        'text.encoded': encoded,
        'text.embeddings': x.text,
        'text.context_diff': (x.text - encoded) / head.text.gamma,
        'score_map': head.score_map(x),
        'head.query_feat': head.text_proj(x.text),
        # Without their positions.
        'pixel.text_keys': head.pixel_decoder.text_proj(x.text).transpose(
            0, 1
        ),
        'pixel.mask_feature': mask_features,
        'seg_logits_stride4': head._small_scores(x),
        'seg_logits': head.predict(x, [{}, {}])[:1],
    }
    for i, block in enumerate(config['outi']):
        tokens = blocks[block][:, 1:]
        side = round(tokens.shape[1] ** 0.5)
        results[f'backbone.block_map.{i}'] = tokens.mT.unflatten(
            2, (side, side)
        )
        results[f'backbone.feat.{i}'] = x[i]
    for i, value in enumerate(memory):
        results[f'pixel.memory.{i}'] = value
    for i, layer in enumerate(layers):
        for name, value in layer.items():
            results[f'pixel.layer.{i}.{name}'] = value.transpose(0, 1)
    for i, logits in enumerate(zip(cls_logits, mask_logits, strict=True)):
        results[f'head.cls.{i}'], results[f'head.mask.{i}'] = logits
    return results


def build(config, tensors):
    """Build backbone and head of a file, and load them, by conversion."""
    heads = config['vwidth'] // config['head_width']
    backbone = TIMMCLIPTower(
        'eva02_large_patch14_clip_336',
        embed_dim=config['vwidth'],
        depth=config['vlayers'],
        num_heads=heads,
        mlp_ratio=config['mlp_ratio'],
        num_classes=config['D'],
        img_size=config['img'],
        patch_size=config['patch'],
        blocks=config['outi'],
        resize='bicubic',
        keep_initial=True,
    )
    text = open_clip.transformer.TextTransformer(
        context_length=config['total_len'],
        vocab_size=int(tensors['texts_origami'].max()) + 1,
        width=config['twidth'],
        heads=config['theads'],
        layers=config['tlayers'],
        output_dim=config['D'],
    )
    width, heads, layers = config['cd']
    prompts = LearnedPrompts(
        TextEncoder(text, config['total_len']),
        tensors['texts'],
        tensors['texts_origami'],
        dict(width=width, num_heads=heads, num_layers=layers),
    )
    weights = config['weights']
    head = TextQueryHead(
        num_classes=len(config['names']),
        text=prompts,
        in_channels=[config['vwidth']] * 4,
        feat_channels=config['d'],
        out_channels=config['d'],
        num_heads=config['heads'],
        num_groups=config['groups'],
        num_encoder_layers=config['enc'],
        encoder_ffn_channels=config['pixel_decoder_ffn_width'],
        num_decoder_layers=config['dec'],
        decoder_ffn_channels=config['decoder_ffn_width'],
        regularisation=dict(
            text=weights['textual'],
            image=weights['visual'],
            score_map=weights['score_map'],
        ),
        loss=dict(
            class_weight=weights['cls'],
            mask_weight=weights['mask'],
            dice_weight=weights['dice'],
            no_object_weight=config['class_weight_no_object'],
            num_points=config['pts'],
        ),
    )
    state = strip_prefix('state.', tensors)
    ours = rename_tqdm(state, 'the reference').weights
    for module, prefix in ((backbone, 'backbone.'), (head, 'decode_head.')):
        load_strictly(
            module, strip_prefix(prefix, ours), source='the reference'
        )
    return backbone.eval(), head.eval()


def convert_published(weights, layout):
    """Convert a whole checkpoint of which only names and shapes are known.

    Args:
        weights (dict[str, Tensor]): On the meta device.
        layout (Layout): Of Rein, SoMA or tqdm.

    Returns:
        Conversion: Checked against the model of the published config.

    Raises:
        CheckpointMismatchError: A name or shape has no place, or is missing.
    """
    tower = config = None
    if layout.kind != 'tqdm':
        config = f'clouds_mmseg::{layout.kind}/gta2cs_dinov2l.py'
    if layout.kind != 'tqdm' and 'backbone.model.pos_embed' not in weights:
        with torch.device('meta'):
            model = timm.create_model('vit_large_patch14_dinov2')
        # As DINOv2 was released.
        tower = dict(model.state_dict(), mask_token=torch.zeros(1, 1024))
    converted, _, _ = convert_tower_checkpoint(
        weights, layout, 'the file', config=config, tower=tower
    )
    accounted = {old for old, _ in converted.renamed} | set(converted.unused)
    assert accounted == set(weights)
    return converted


def _tokens(config, tensors):
    """Compare the real token ids of the class names."""
    tokenizer = open_clip.get_tokenizer('EVA02-L-14-336')
    for name, template, length in (
        ('texts', '{}', config['ctx_len']),
        ('texts_origami', 'a clean origami of a {}', config['total_len']),
    ):
        texts = [template.format(n) for n in config['names']]
        key = f'clip_ids.{name}'
        ids = tokenize(tokenizer, texts, length)
        yield compare(key, ids, tensors[key], EXACT)


def _assignment(config, tensors):
    """Compare the fixed assignment, also of other numbers of queries."""
    for case in ('twice', 'spare', 'none', 'all'):
        labels = tensors[f'identity.{case}.gt_labels']
        theirs = tensors[f'identity.{case}.labels']
        # So many classes that the labels exist and the queries are as many.
        classes = dict(twice=4, spare=3, none=5, all=4)[case]
        present = torch.zeros(1, classes, dtype=torch.bool)
        present[0, labels] = True
        matches = assign_fixed(present, len(theirs), 1)
        ours = torch.full_like(theirs, -1)
        ours[matches.query] = matches.target
        yield compare(f'identity.{case}.labels', ours, theirs, EXACT)
        index = torch.zeros_like(theirs)
        for k, label in enumerate(labels.tolist()):
            index[ours == label] = k + 1
        name = f'identity.{case}.gt_inds'
        yield compare(name, index, tensors[name], EXACT)


def _gradients(prefix, backbone, head, tensors):
    """Compare the gradients that a file has; then set them to none."""
    for name, theirs in tensors.items():
        if not name.startswith(prefix):
            continue
        key = TQDM(name.removeprefix(prefix))
        part, _, key = key.partition('.')
        module = backbone if part == 'backbone' else head
        grad = module.get_parameter(key).grad
        yield compare_relative(name, grad, theirs, GRADIENTS)
    for module in (backbone, head):
        module.zero_grad()


def _losses(config, backbone, head, tensors):
    """Compute all losses at the recorded points, under their names."""
    criterion = head.criterion
    labels = tensors['gt_semantic_seg'][:, 0].long()
    x = head.with_text(backbone(tensors['image']))
    cls_logits, _, embeds, features = head.predict_for_loss(x)
    prepared, present = criterion.prepare_labels(labels)
    outputs = len(cls_logits)
    matches = assign_fixed(present, cls_logits[0].shape[1], outputs)
    masks = predict_matched_masks(embeds, features, matches)
    points = torch.cat(
        [tensors[f'loss.point_coords.{i}'] for i in range(outputs)]
    ).to(masks)
    losses = zip(
        criterion.class_losses(cls_logits, matches),
        *criterion.mask_losses(
            masks, prepared, matches, points, outputs, count_masks(present)
        ),
        strict=True,
    )
    named = {
        f'decode.{name}': value
        for name, value in criterion._named(list(losses)).items()
    }
    regular = head.regularise(x, labels)
    named['reg.textual.loss'] = regular['loss_text']
    named['reg.visual.loss'] = regular['loss_image']
    named['scr_map.loss_seg'] = regular['loss_score_map']
    return named


def _targets(config, tensors, image):
    """Compare the matching of the labels of an image."""
    classes = len(config['names'])
    label = tensors['gt_semantic_seg'][image].long()
    present = torch.stack([(label == k).any() for k in range(classes)])
    matches = assign_fixed(present[None], classes, 1)
    prefix = f'assign.{image}'
    yield compare(
        f'{prefix}.pos_inds',
        matches.query,
        tensors[f'{prefix}.pos_inds'],
        EXACT,
    )
    labels = torch.full((classes,), classes)
    labels[matches.query] = matches.target
    yield compare(
        f'{prefix}.labels', labels, tensors[f'{prefix}.labels'], EXACT
    )
    masks = label[0] == matches.target[:, None, None]
    name = f'{prefix}.mask_targets'
    yield compare(name, masks.to(torch.uint8), tensors[name], EXACT)


def _record(layer, kept):
    """Record the steps of a layer of the pixel decoder: (N, S, C) each."""
    found = {}

    def keep(name):
        def hook(module, args, output):
            found.setdefault(name, output)

        return hook

    def keep_input(module, args, kwargs):
        found.setdefault('text_cross_query_in', kwargs['identity'])

    kept.append(found)
    return [
        *(
            part.register_forward_hook(keep(name))
            for name, part in (
                ('after_deformable', layer.self_attn),
                ('after_text_cross', layer.text_attn),
                ('out', layer.norms[2]),
            )
        ),
        layer.text_attn.register_forward_pre_hook(
            keep_input, with_kwargs=True
        ),
    ]


# A key that this kind of file has and those below it have not.
KINDS = (('state.context_decoder.', 'tqdm', check_tqdm),)
