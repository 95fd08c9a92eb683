"""Comparison with outputs recorded from other implementations.

``python tools/check_parity.py FILE...`` prints a row for each file.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from comparison import EXACT, LOGITS, LOSSES, Comparison, compare
from parity_plain import KINDS as PLAIN_KINDS
from parity_towers import KINDS
from parity_tqdm import KINDS as TQDM_KINDS
from parity_tqdm import convert_published
from safetensors import SafetensorError, safe_open

from clouds_mmseg.conversion.convert import to_ours
from clouds_mmseg.conversion.layouts import OURS, TOWER_KINDS, detect
from clouds_mmseg.conversion.target_spec import (
    infer_head_arguments,
    spec_from_weights,
    strip_prefix,
)
from clouds_mmseg.models.mask2former.criterion import (
    MaskCriterion,
    count_masks,
    matched_masks,
)
from clouds_mmseg.models.mask2former.head import CLOUDSHead
from clouds_mmseg.refine.prompted_model import (
    drop_overlaps,
    paint,
    select_best,
)
from clouds_mmseg.refine.sam_prompts import find_components
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError, load_strictly

# The official pixel decoder does not ask for these.
_OFFICIAL_GROUPS = 32


def check_zoo_head(config, tensors):
    """Compare a head of MMSegmentation's zoo, part by part.

    Args:
        config (dict): ``heads``, ``groups``, ``hw``.
        tensors (dict[str, Tensor]): Weights, features and outputs.

    Yields:
        Comparison: Of multi-scale features, mask features, logits and scores.
    """
    weights = strip_prefix('state.', tensors)
    head = _build(weights, config['heads'], config['groups'])
    feats = [tensors[f'feat.{i}'] for i in range(4)]
    metas = [dict(img_shape=tuple(config['hw']))] * len(feats[0])
    with torch.no_grad():
        mask_features, multi_scale_features = head.pixel_decoder(feats)
        cls_logits, mask_logits = head(feats)
        scores = head.predict(feats, metas)
    results = {'pixel_decoder.mask_features': mask_features}
    results.update(_numbered('pixel_decoder.memory', multi_scale_features))
    results.update(_numbered('cls', cls_logits))
    results.update(_numbered('mask', mask_logits))
    results['seg_logits'] = scores
    for name, result in results.items():
        yield compare(name, result, tensors[name], LOGITS)


def check_official_head(config, tensors):
    """Compare a head of the official CLOUDS code.

    Args:
        config (dict): ``heads``, and ``num_templates`` where the classifier
            compares with text.
        tensors (dict[str, Tensor]): Weights, features and outputs.

    Yields:
        Comparison: Of the logits of every output.
    """
    theirs = strip_prefix('state.', tensors)
    converted = to_ours(theirs, detect(theirs, 'mask2former'))
    weights = strip_prefix(OURS, converted.weights)
    classifier = None
    if 'text_classifier' in tensors:
        *rows, void = tensors['text_classifier'].split(1)
        weights['cls_embed.void_embedding.weight'] = void
        classifier = dict(
            type='text',
            text_embeddings=torch.cat(rows),
            num_synonyms=config['num_templates'],
        )
    head = _build(
        weights, config['heads'], _OFFICIAL_GROUPS, config['ncls'], classifier
    )
    with torch.no_grad():
        cls_logits, mask_logits = head(
            [tensors[f'feat.res{i}'] for i in (2, 3, 4, 5)]
        )
    last = len(cls_logits) - 1
    for index, logits in enumerate(zip(cls_logits, mask_logits, strict=True)):
        prefix = '' if index == last else f'aux.{index}.'
        for name, ours in zip(
            ('pred_logits', 'pred_masks'), logits, strict=True
        ):
            name = prefix + name
            yield compare(name, ours, tensors[name], LOGITS)


def check_criterion(config, tensors):
    """Compare matching, losses and gradients, the points being given.

    Args:
        config (dict): ``num_classes``, ``ignore_index``, ``eos_coef`` and
            ``cost_class``, ``cost_mask``, ``cost_dice``.
        tensors (dict[str, Tensor]): Predictions, labels, points and results.

    Yields:
        Comparison: Of pairs (exact), losses and gradients.
    """
    criterion = MaskCriterion(
        num_classes=config['num_classes'],
        ignore_index=config['ignore_index'],
        class_weight=config['cost_class'],
        mask_weight=config['cost_mask'],
        dice_weight=config['cost_dice'],
        no_object_weight=config['eos_coef'],
        num_points=config['num_points'],
    )
    cls_logits = tensors['pred_logits'].requires_grad_()
    mask_logits = tensors['pred_masks'].requires_grad_()
    images = range(len(cls_logits))
    labels, present = criterion.prepare_labels(
        torch.stack([tensors[f'label_map.{i}'] for i in images])
    )
    points = torch.cat([tensors[f'match_point_coords.{i}'] for i in images])
    matches = criterion.match(
        [cls_logits], [mask_logits], labels, present, points[None]
    )
    classes = [of_image.nonzero()[:, 0] for of_image in present]
    for i in images:
        mine = matches.image == i
        query, target = (
            tensors[f'match_query.{i}'],
            tensors[f'match_target.{i}'],
        )
        yield compare(f'match_query.{i}', matches.query[mine], query, EXACT)
        # A target is counted among the classes of its image.
        yield compare(
            f'match_target.{i}',
            matches.target[mine],
            classes[i][target],
            EXACT,
        )
    loss_cls = criterion.class_losses([cls_logits], matches)
    loss_mask, loss_dice = criterion.mask_losses(
        matched_masks([mask_logits], matches),
        labels,
        matches,
        tensors['loss_point_coords'],
        outputs=1,
        num_masks=count_masks(present),
    )
    yield compare('loss_ce', loss_cls, tensors['loss_ce'], LOSSES)
    yield compare('loss_mask', loss_mask, tensors['loss_mask'], LOSSES)
    yield compare('loss_dice', loss_dice, tensors['loss_dice'], LOSSES)
    total = 2 * loss_cls + 5 * loss_mask + 5 * loss_dice
    grads = torch.autograd.grad(total.sum(), (cls_logits, mask_logits))
    yield compare('grad_logits', grads[0], tensors['grad_logits'], LOSSES)
    yield compare('grad_masks', grads[1], tensors['grad_masks'], LOSSES)


def check_refinement(config, tensors):
    """Compare the refinement of a label map, with recorded SAM predictions.

    Args:
        config (dict): ``min_area``, ``ignore_index``.
        tensors (dict[str, Tensor]): Label map, SAM predictions and results.

    Yields:
        Comparison: All exact.
    """
    label = tensors['label_map'].numpy()
    components = find_components(
        label, config['min_area'], config['ignore_index']
    )
    classes = torch.tensor([c.label for c in components])
    masks = torch.stack(
        [torch.from_numpy(c.full_mask(label.shape)) for c in components]
    )
    best = select_best(tensors['sam_masks'], tensors['sam_quality'])
    single = drop_overlaps(best)
    painted = paint(single, tensors['component_class'])
    # The official code returns a mask of each class.
    labels = tensors['component_class'].unique()
    refined = painted == labels[:, None, None]
    for name, ours in (
        ('component_class', classes),
        ('component_mask', masks),
        ('best_masks', best),
        ('nonoverlapping_masks', single),
        ('refined_labels', labels),
        ('refined_masks', refined),
    ):
        yield compare(name, ours, tensors[name], EXACT)


def check_names(config, shapes):
    """Compare names and shapes of weights, after conversion.

    Args:
        config (dict): Not used; it is empty.
        shapes (dict[str, list[int]]): Of a whole model or its head, in the
            layout of MMSegmentation or of detectron2.

    Yields:
        Comparison: The error is the number of names that differ.
    """
    del config
    # Shapes need no memory.
    weights = {k: torch.empty(s, device='meta') for k, s in shapes.items()}
    layout = detect(weights)
    if layout.kind in TOWER_KINDS:
        converted = convert_published(weights, layout)
        count = len(converted.spec)
        yield Comparison(f'{count} names and shapes', 0.0, EXACT)
        return
    converted = to_ours(weights, layout).weights
    expected, _ = spec_from_weights(
        converted,
        backbone=bool(layout.backbone),
        renamed=layout.kind != 'mmseg',
    )
    ours = {key: tuple(value.shape) for key, value in converted.items()}
    different = {
        key
        for key in ours.keys() | expected.keys()
        if ours.get(key) != expected.get(key)
    }
    name = min(different, default=f'{len(ours)} names and shapes')
    yield Comparison(name, float(len(different)), EXACT)


def _numbered(name, values):
    return {f'{name}.{index}': value for index, value in enumerate(values)}


def _build(weights, num_heads, num_groups, num_classes=None, classifier=None):
    """Build the head that has such weights and load them."""
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    arguments = infer_head_arguments(shapes, num_heads=num_heads)
    arguments.setdefault('num_classes', num_classes)
    head = CLOUDSHead(
        num_groups=num_groups, classifier=classifier, **arguments
    )
    load_strictly(head, weights, source='the reference')
    return head.eval()


# A key that a kind of file has and those below it have not.
_KINDS = (
    *KINDS,
    *PLAIN_KINDS,
    *TQDM_KINDS,
    ('sam_masks', 'refinement', check_refinement),
    ('loss_point_coords', 'criterion', check_criterion),
    ('state.sem_seg_head.', 'official head', check_official_head),
    ('state.', 'zoo head', check_zoo_head),
)


class Report(NamedTuple):
    """What came out for one file."""

    path: Path
    kind: str
    worst: Comparison | None  # the one furthest out of its tolerance
    problem: str = ''  # why nothing could be compared

    @property
    def passed(self):
        """Whether everything in the file is within its tolerance."""
        return not self.problem and self.worst.passed

    @property
    def detail(self):
        """The greatest error or the problem, in words."""
        if self.problem:
            return self.problem.splitlines()[0]
        name, error, allowed = self.worst
        return f'{name}: {error:.2e}, allowed {allowed:.0e}'


def check_file(path):
    """Compare everything a file holds.

    Args:
        path (str | Path): A ``.safetensors`` file whose metadata has a
            ``config``, or a ``.json`` of names and shapes.

    Returns:
        Report: Never raises for a file that is unreadable or does not fit:
        that is a problem of its row.
    """
    path = Path(path)
    kind = '?'
    try:
        config, tensors = _read(path)
        kind, check = _kind_of(tensors, path)
        comparisons = list(check(config, tensors))
    except (UserError, CheckpointMismatchError) as error:
        return Report(path, kind, None, str(error))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as e:
        # What a file lacks or has in another shape shows where it is used.
        return Report(path, kind, None, f'{type(e).__name__}: {e}')
    return Report(path, kind, max(comparisons, key=lambda c: c.excess))


def _kind_of(tensors, path):
    if path.suffix == '.json':
        return 'names', check_names
    for beginning, kind, check in _KINDS:
        if any(key.startswith(beginning) for key in tensors):
            return kind, check
    raise UserError(
        f'{path} holds none of the known references; its keys begin with '
        f'{sorted(tensors)[:3]}.'
    )


def _read(path):
    if not path.is_file():
        raise UserError(f'{path}: no such file.')
    if path.suffix == '.json':
        return {}, _read_json(path)
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise UserError(
            f'{path} is no readable safetensors file: {error}'
        ) from error
    if 'config' not in metadata:
        raise UserError(f'{path} has no "config" in its metadata.')
    return json.loads(metadata['config']), tensors


def _read_json(path):
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f'{path} is no readable JSON: {error}') from error
    if not isinstance(content, dict) or not all(
        isinstance(shape, list) for shape in content.values()
    ):
        raise UserError(
            f'{path} must be a JSON object of weight names and shapes.'
        )
    return content
