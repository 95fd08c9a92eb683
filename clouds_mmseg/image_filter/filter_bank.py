"""Filtering of a generated image set: measures, decisions, manifest.

Beside the set, in its folder ``filter``, stand the settings, a file of
measures for each process, the loss of each labelled pixel, the filtered
labels and a contact sheet. The manifest gets ``filter`` in each entry: whether
the image is used, why not, and its filtered label. Images and labels of the
set are never changed. Each step can be killed and run again.
"""

import io
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from PIL import Image
from tqdm import tqdm

from clouds_mmseg.generate.image_bank import (
    Shard,
    ShardFile,
    encode_entry,
    shard_from_environment,
)
from clouds_mmseg.image_filter.measures import (
    LabelFinder,
    Measures,
    find_similarity,
    measure,
)
from clouds_mmseg.image_filter.rules import (
    FilterRule,
    class_limits,
    filtered_label,
    is_blank,
    near_copies,
    similarity_limit,
)
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.atomic import atomic_path, leftovers
from clouds_mmseg.utils.cityscapes import CLASSES, IGNORE
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.utils.image_set import (
    FILTER_FILE,
    FILTER_FOLDER,
    MANIFEST_FILE,
    read_bank,
    read_complete,
    read_entries,
    sha256_of,
)
from clouds_mmseg.utils.images import read_image
from clouds_mmseg.utils.packed_set import refuse_packed
from clouds_mmseg.utils.parallel import parallel_map
from clouds_mmseg.utils.remote import refuse_address
from clouds_mmseg.utils.shared_work import (
    LEASE_SECONDS,
    WORK_FOLDER,
    ChunksLost,
    Share,
    SharedWork,
    split,
)
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.utils.visualization import (
    caption_below,
    colorize,
    grid,
    resize,
)
from clouds_mmseg.weights.load import find_checkpoint

SHEET_FILE = f'{FILTER_FOLDER}/contact_sheet.png'
_MEASURES = f'{FILTER_FOLDER}/measures'
_LOSSES = f'{FILTER_FOLDER}/losses'
_GIVEN = f'{FILTER_FOLDER}/given_labels'
_LABELS = f'{FILTER_FOLDER}/labels'
_FORMAT = 1
# Setting -> what it is called in a message.
_SETTINGS = {
    'sha256': 'content of the checkpoint',
    'labels': 'images with a label',
    'labels_of': 'folder of labels',
}
# Where neither the user nor the model's config names one.
_CLIP = ('ViT-B-32', 'openai')
_WIDTH = 192  # of an image in the sheet, pixels
_ADVICE = (
    'Filter a set before it is copied to a store, by clouds generate '
    '--copy-to or clouds pack --out'
)


@dataclass
class FilterSummary:
    """Result of a filter.

    Attributes:
        num: Images of the set.
        used: Of them used.
        reasons: Why the others are left out -> their number.
        labelled: Images with a label.
        kept_pixels: Share of the labelled pixels that is left in the images
            with a label that are used; None without such.
        class_losses: Mean loss of each class that has pixels.
        compared: Whether images were compared with their prompts.
        complete: Whether all processes are done; else nothing is decided.
        share: What this process did of work that was shared.
    """

    num: int
    used: int = 0
    reasons: Counter = field(default_factory=Counter)
    labelled: int = 0
    kept_pixels: float | None = None
    class_losses: dict[str, float] = field(default_factory=dict)
    compared: bool = False
    complete: bool = True
    share: Share | None = None


def refuse_store(root: str | Path) -> None:
    """Refuse an image set at an address, which cannot be filtered there.

    Raises:
        UserError: It is one.
    """
    refuse_address(root, 'clouds filter', _ADVICE)


def filter_bank(
    root: str | Path,
    segmenter: Segmenter,
    *,
    checkpoint: str | Path,
    rule: FilterRule | None = None,
    teacher: bool = False,
    datasets: Sequence[BaseSegDataset] = (),
    labels: str | Path | None = None,
    clip: tuple[str | None, str | None] | None = None,
    shard: Shard | None = None,
    shared: bool = False,
    lease: float = LEASE_SECONDS,
    workers: int | None = 1,
    sheet: int = 48,
) -> FilterSummary:
    """Decide which images and pixels of a generated set are used.

    Args:
        root: Folder of the image bank.
        segmenter: The model, trained on labelled images.
        checkpoint: Its file.
        rule: What is left out; by default :class:`FilterRule`.
        teacher: Whether the model is the teacher of self-training.
        datasets: Labelled datasets that may hold the images which were
            restyled.
        labels: Folder of labels (class indices) under the names of the
            restyled images, in place of datasets.
        clip: Model and weights of CLIP. By default those of the model's
            text classifier, or ViT-B-32 of OpenAI, if they are at hand.
        shard: Share of this process; by default from its launcher.
        shared: Whether any number of processes that are started so take
            parts of the work until it is done, in place of fixed shares.
        lease: See :class:`~clouds_mmseg.utils.shared_work.SharedWork`.
        workers: Processes that write filtered labels.
        sheet: Images on the contact sheet; 0: no sheet.

    Raises:
        UserError: There is no complete image bank, it was filtered with
            another model, or labels have other classes than the model.
    """
    refuse_store(root)
    root = Path(root)
    rule = rule or FilterRule()
    shard = shard or shard_from_environment()
    refuse_packed(root)
    bank, entries = read_complete(root)
    device = next(segmenter.model.parameters()).device
    similarity = _similarity(bank, entries, segmenter, clip, device)
    finder = LabelFinder(
        root, bank.get('info', {}).get('source_root'), datasets, labels,
        segmenter.classes,
    )  # fmt: skip
    _check_classes(bank, entries, segmenter.classes, root)
    file = find_checkpoint(checkpoint)
    settings = dict(
        format=_FORMAT,
        checkpoint=file.name,
        sha256=sha256_of(file),
        teacher=teacher,
        classes=list(segmenter.classes),
        clip=None if similarity is None else similarity.name,
        labels=sum(finder.has_label(entry) for entry in entries.values()),
        labels_of=None if labels is None else Path(labels).name,
    )
    _keep_settings(root, settings)
    restyled = sum(
        entry.get('source') is not None for entry in entries.values()
    )
    if restyled and not settings['labels']:
        print_log(
            f'none of the {restyled} restyled images of {root} has a label: '
            'the labelled training data of the checkpoint holds no image '
            f'below {bank.get("info", {}).get("source_root")}. They are '
            'judged by the confidence of the model, and no pixel is left '
            'out. --labels names a folder of their labels, --config another '
            'training',
            logger='current',
            level=logging.WARNING,
        )
    measure_some = partial(
        _measure, root, entries, segmenter, finder, similarity
    )

    def decide():
        found = _read_measures(root, entries)
        if len(found) < len(entries):
            return FilterSummary(len(entries), complete=False)
        return _decide(
            root, entries, {number: found[number] for number in entries},
            rule, settings, segmenter.palette, workers, sheet,
        )  # fmt: skip

    if not shared:
        own = [number for number in entries if shard.owns(number)]
        _measure_share(root, entries, own, shard, measure_some)
        return decide()
    numbers = list(entries)
    chunks = split(len(numbers))
    images = hash_text(*(entry['sha256'] for entry in entries.values()))
    job = SharedWork(
        root,
        'filter',
        dict(settings, rule=asdict(rule), images=images, sheet=sheet),
        chunks=len(chunks),
        lease=lease,
    )
    known = _read_measures(root, entries)

    def work(chunk):
        own = [numbers[i] for i in chunks[chunk.number]]
        new = measure_some([n for n in own if n not in known])
        return [one.to_json() for one in new]

    def finish(results):
        labelled = {
            number for number, one in known.items() if one.sums is not None
        } | {
            one['index']
            for part in results
            for one in part
            if one['sums'] is not None
        }
        lost = {
            number
            for number in labelled
            for folder in (_LOSSES, _GIVEN)
            if not _file(root, folder, number).is_file()
        }
        if lost & set(known):
            raise UserError(
                f'{len(lost)} files of {root / _LOSSES} are missing; begin '
                f'anew: clouds filter {root} --undo'
            )
        if lost:
            raise ChunksLost(
                number
                for number, chunk in enumerate(chunks)
                if any(numbers[i] in lost for i in chunk)
            )
        _sweep(root, entries)
        _join_measures(root, known, results)
        summary = decide()
        return dict(vars(summary), reasons=dict(summary.reasons))

    share = job.run(work, finish)
    summary = FilterSummary(**share.result)
    summary.reasons = Counter(summary.reasons)
    return replace(summary, share=share)


def undo_filter(root: str | Path) -> int:
    """Use all images of a set again, and remove what a filter wrote.

    Returns:
        Number of images that had been left out.

    Raises:
        UserError: There is no image bank.
    """
    refuse_store(root)
    root = Path(root)
    read_bank(root)
    refuse_packed(root)
    entries = read_entries(root)
    left = sum(
        not entry.pop('filter', {}).get('used', True)
        for entry in entries.values()
    )
    if (root / MANIFEST_FILE).is_file():
        _write_manifest(root, entries)
    shutil.rmtree(root / FILTER_FOLDER, ignore_errors=True)
    # What processes have done of a filter that they share.
    shutil.rmtree(root / WORK_FOLDER / 'filter', ignore_errors=True)
    return left


def _similarity(bank, entries, segmenter, clip, device):
    """Load CLIP where prompts describe the images."""
    if bank['recipe'].get('backend') != 'diffusers':
        if clip is not None:
            raise UserError(
                '--clip compares images with their prompts, and those of the '
                f'backend {bank["recipe"].get("backend")} do not describe them'
            )
        return None
    tower = segmenter.text_tower or {}
    default = (tower.get('model_name'), tower.get('pretrained'))
    chosen = clip or (default if default[1] else _CLIP)
    prompts = [entry['prompt'] for entry in entries.values()]
    return find_similarity(
        prompts, chosen, named=clip is not None, device=device
    )


def _check_classes(bank, entries, classes, root):
    """Compare the classes of ToyCity's own labels with the model's."""
    own = any(
        'label' in entry or 'evaluation_label' in entry
        for entry in entries.values()
    )
    toycity = bank['recipe'].get('backend') == 'toycity'
    if own and toycity and tuple(classes) != tuple(CLASSES):
        raise UserError(
            f'the labels of {root} have the 19 classes of Cityscapes, the '
            f'checkpoint has {", ".join(classes)}: filter with a model that '
            'was trained on these classes'
        )


def _keep_settings(root, settings):
    """Write the settings, or compare them with those of an earlier run."""
    path = root / FILTER_FILE
    if not path.is_file():
        with atomic_path(path) as temporary:
            text = json.dumps(settings, indent=1, ensure_ascii=False)
            temporary.write_text(text + '\n', encoding='utf-8')
        return
    try:
        before = parse_json(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        before = {}
    if before == settings:
        return
    changed = [key for key in settings if before.get(key) != settings[key]]
    lines = [
        f'  {_SETTINGS.get(key, key)}: {before.get(key)}, now {settings[key]}'
        for key in changed
    ]
    raise UserError(
        f'the image bank {root} was measured otherwise:\n'
        + '\n'.join(lines)
        + f'\nRemove that first: clouds filter {root} --undo'
    )


def _read_measures(root, entries):
    """Return index -> measures, of all processes.

    Unfinished lines are passed over, and images that were made again since.
    """
    found = {}
    for path in sorted((root / _MEASURES).glob('*.jsonl')):
        for line in path.read_bytes().split(b'\n')[:-1]:
            try:
                one = Measures(**parse_json(line))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f'{path} is damaged ({error}); begin anew: clouds filter '
                    f'{root} --undo'
                ) from error
            entry = entries.get(one.index)
            if entry is not None and one.sha256 == entry['sha256']:
                found[one.index] = one
    return found


def _measure_share(root, entries, own, shard, measure_some):
    """Measure those images of a fixed share that were not."""
    found = _read_measures(root, entries)
    todo = [number for number in own if number not in found]
    if not todo:
        return
    file = ShardFile(root / _MEASURES / f'{shard.writer}.jsonl')
    try:
        _sweep(root, set(own))
        bar = tqdm(todo, desc='measure', unit='img', disable=None)
        for measures in measure_some(bar):
            file.append(measures.to_json())
    finally:
        file.close()


def _measure(root, entries, segmenter, finder, similarity, numbers):
    """Yield the measures of images, when their losses are written."""
    for number in numbers:
        entry = entries[number]
        label = finder.find(entry)
        measures, loss = measure(entry, root, segmenter, label, similarity)
        if loss is not None:
            _write_png(_file(root, _LOSSES, number), loss)
            _write_png(_file(root, _GIVEN, number), label)
        yield measures


def _join_measures(root, known, results):
    """Write the measures of all processes as one alone does."""
    lines = {number: one.to_json() for number, one in known.items()}
    lines |= {one['index']: one for part in results for one in part}
    folder = root / _MEASURES
    with atomic_path(folder / f'{Shard().writer}.jsonl') as temporary:
        temporary.write_bytes(
            b''.join(encode_entry(lines[number]) for number in sorted(lines))
        )
    for path in folder.glob('*.*'):
        if path.stem != Shard().writer:
            path.unlink(missing_ok=True)


def _sweep(root, numbers):
    """Remove the temporary files that a killed process left behind."""
    for folder in (_LOSSES, _GIVEN):
        for path in leftovers(root / folder / '*.png'):
            number = path.name[1:].split('-')[0]
            if number.isdigit() and int(number) in numbers:
                path.unlink(missing_ok=True)


def _file(root, folder, number):
    return root / folder / f'{number:06d}.png'


def _write_png(path, array):
    """Write an array of 8 or 16 bits; float16 as its bits."""
    if array.dtype == np.float16:
        array = array.view(np.uint16)
    _, payload = cv2.imencode('.png', array)
    with atomic_path(path) as temporary:
        temporary.write_bytes(payload.tobytes())


def _decide(root, entries, found, rule, settings, palette, workers, sheet):
    """Apply the rule and write labels, manifest and contact sheet."""
    reasons = _reasons(entries, found, rule)
    # A blank image says nothing about the losses of its classes.
    labelled = [
        number
        for number, one in found.items()
        if one.sums is not None and not is_blank(one.spread)
    ]
    summary = FilterSummary(
        len(found),
        labelled=len(labelled),
        compared=settings['clip'] is not None,
    )
    kept, folder = {}, None
    if labelled:
        means, limits = class_limits(
            np.array([found[n].sums for n in labelled]),
            np.array([found[n].counts for n in labelled]),
            rule.k,
        )
        summary.class_losses = {
            name: round(float(mean), 4)
            for name, mean in zip(settings['classes'], means, strict=True)
            if np.isfinite(mean)
        }
        mark = hash_text(settings, rule.k, means.tolist())[:8]
        folder = f'{_LABELS}-{mark}'
        jobs = [_LabelJob(root, folder, n, limits) for n in labelled]
        results = parallel_map(
            _filter_label, jobs, workers=workers, title='labels'
        )
        kept = dict(zip(labelled, results, strict=True))
    decided, pixels = {}, np.zeros(2, np.int64)
    for number, one in found.items():
        total, left = kept.get(number, (0, 0))
        share = left / total if total else None
        if share is not None and share < rule.min_kept:
            reasons[number].append('loss')
        entry = dict(used=not reasons[number], why=reasons[number])
        entry['score'] = _score(one, share)
        entry['confidence'] = round(one.confidence, 4)
        if one.similarity is not None:
            entry['similarity'] = round(one.similarity, 4)
        if share is not None:
            entry['kept'] = round(share, 4)
            entry['label'] = f'{folder}/{number:06d}.png'
            if entry['used']:
                pixels += (left, total)
        decided[number] = entry
    if pixels[1]:
        summary.kept_pixels = float(pixels[0] / pixels[1])
    summary.used = sum(entry['used'] for entry in decided.values())
    summary.reasons = Counter(
        why.partition(' of ')[0] for e in decided.values() for why in e['why']
    )
    for number, entry in entries.items():
        entry['filter'] = decided[number]
    _write_manifest(root, entries)
    for path in root.glob(f'{_LABELS}-*'):
        if folder is None or path.name != Path(folder).name:
            shutil.rmtree(path, ignore_errors=True)
    with atomic_path(root / FILTER_FOLDER / 'rule.json') as temporary:
        text = json.dumps(
            dict(asdict(rule), class_losses=summary.class_losses), indent=1
        )
        temporary.write_text(text + '\n', encoding='utf-8')
    if sheet:
        _write_sheet(root, entries, palette, sheet)
    return summary


def _reasons(entries, found, rule):
    """Return number -> why it is left out, apart from the loss."""
    reasons = {number: [] for number in found}
    blank = {n for n, one in found.items() if is_blank(one.spread)}
    # Restyled images of one source show the same on purpose.
    scenes = {
        number: one.hash
        for number, one in found.items()
        if number not in blank and entries[number].get('source') is None
    }
    copies = near_copies(scenes, rule.duplicates)
    values = [
        one.similarity for one in found.values() if one.similarity is not None
    ]
    least = similarity_limit(values, rule)
    for number, one in found.items():
        if number in blank:
            reasons[number].append('blank')
        elif one.sums is None and one.confidence < rule.min_confidence:
            reasons[number].append('confidence')
        if number in copies:
            reasons[number].append(f'copy of {copies[number][0]}')
        if one.similarity is not None and one.similarity < least:
            reasons[number].append('off topic')
    return reasons


def _score(one, share):
    """Return what images are sorted by, in [0, 1]."""
    if is_blank(one.spread):
        return 0.0
    return round(one.confidence if share is None else share, 4)


@dataclass(frozen=True)
class _LabelJob:
    root: Path
    folder: str
    number: int
    limits: np.ndarray


def _filter_label(job):
    """Write a filtered label; return labelled pixels, and those left."""
    label = _read_png(_file(job.root, _GIVEN, job.number))
    loss = _read_png(_file(job.root, _LOSSES, job.number)).view(np.float16)
    result = filtered_label(label, loss, job.limits)
    path = _file(job.root, job.folder, job.number)
    if not path.is_file():
        _write_png(path, result)
    return int((label != IGNORE).sum()), int((result != IGNORE).sum())


def _read_png(path):
    try:
        payload = np.fromfile(path, np.uint8)
    except OSError:
        payload = np.zeros(0, np.uint8)
    array = (
        cv2.imdecode(payload, cv2.IMREAD_UNCHANGED) if len(payload) else None
    )
    if array is None:
        raise UserError(
            f'{path} is missing or damaged; begin anew: clouds filter '
            f'{path.parents[2]} --undo'
        )
    return array


def _write_manifest(root, entries):
    payload = b''.join(encode_entry(e) for e in entries.values())
    path = root / MANIFEST_FILE
    if path.is_file() and path.read_bytes() == payload:
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(payload)


def _write_sheet(root, entries, palette, count):
    """Write the contact sheet: the lowest scores, and some of the others."""
    order = sorted(entries.values(), key=lambda e: e['filter']['score'])
    lowest = order[: (count + 1) // 2]
    rest = order[len(lowest) :]
    step = max(len(rest) // max(count - len(lowest), 1), 1)
    chosen = [*lowest, *rest[step - 1 :: step]][:count]
    tiles = [_tile(root, entry, palette) for entry in chosen]
    columns = min(6, len(tiles))
    drawing = grid(
        [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    )
    stream = io.BytesIO()
    drawing.save(stream, format='PNG')
    try:
        with atomic_path(root / SHEET_FILE) as temporary:
            temporary.write_bytes(stream.getvalue())
    except OSError as error:
        print_log(f'no contact sheet: {error}', logger='current')


def _tile(root, entry, palette):
    """Draw an image, below it its filtered label, and the decision."""
    found = entry['filter']
    image = resize(read_image(root / entry['file']), _WIDTH)
    if 'label' in found:
        colours = colorize(_read_png(root / found['label']), palette)
        label = resize(colours, _WIDTH, Image.Resampling.NEAREST)
        both = Image.new('RGB', (_WIDTH, image.height + label.height))
        both.paste(image, (0, 0))
        both.paste(label, (0, image.height))
        image = both
    why = 'used' if found['used'] else 'left out: ' + ', '.join(found['why'])
    return caption_below(
        image, f'{entry["index"]}: {found["score"]:.3f} {why}', lines=2
    )
