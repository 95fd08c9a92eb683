"""Publication as a folder that the Hugging Face Hub understands."""

import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmengine.config import Config
from PIL import Image

from clouds_mmseg.conversion.diagnose import classes_of
from clouds_mmseg.conversion.model_card import (
    PICTURE,
    WEIGHTS,
    Card,
    card_text,
    config_json,
)
from clouds_mmseg.conversion.publish import (
    Published,
    read_for_publishing,
    write_published,
)
from clouds_mmseg.utils.atomic import atomic_folder
from clouds_mmseg.utils.config_file import model_differences, parse_config_text
from clouds_mmseg.utils.errors import UserError, disk_error
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.text_files import read_json

# Everything that is written into the folder.
FILES = ('README.md', 'config.json', 'config.py', WEIGHTS, PICTURE)
# Beside the weights, as the Hub writes it.
_FOREIGN = ('.gitattributes',)
_RUN_PICTURE = 'pictures/iter_{}/overview.png'
_LICENSE = re.compile(r'[a-z0-9][a-z0-9.+-]*')
# The sides of a picture in a card.
_LARGEST = 1600
_LICENCE_HELP = (
    'https://huggingface.co/docs/hub/repositories-licenses lists them, such '
    'as apache-2.0, mit or cc-by-nc-4.0'
)


def publish_folder(
    source: str | Path,
    target: str | Path,
    *,
    config: str | None = None,
    teacher: bool = True,
    backbone: bool = True,
    trust: bool = False,
    name: str | None = None,
    results: Sequence[str | Path] = (),
    picture: Callable[[Path], tuple[Image.Image, str] | None] | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> tuple[Published, list[str]]:
    """Write a checkpoint as a folder of weights, config and model card.

    ``model.safetensors`` is the file that
    :func:`~clouds_mmseg.conversion.publish.publish` writes; beside it are
    ``config.json``, ``config.py``, ``README.md`` and a picture. The folder
    appears when it is complete.

    Args:
        source: A checkpoint of a training, or a published file.
        target: The folder.
        config: As for ``publish``.
        teacher: As for ``publish``.
        backbone: As for ``publish``.
        trust: As for ``publish``.
        name: Of the model; by default that of the folder.
        results: ``results.json`` files of this checkpoint. By default those
            of its run that name its hash.
        picture: Takes the new weight file; returns the picture of the card
            and its caption, or None. What it raises prevents the folder.
        license: Identifier of the licence of the weights.
        overwrite: Replace a folder that was written by this function.

    Returns:
        What was published, and remarks for the user.

    Raises:
        UserError: A file cannot be read or written, the folder exists, the
            checkpoint has no config or no classes, or results are those of
            another checkpoint or model.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if license is not None and not _LICENSE.fullmatch(license):
        raise UserError(
            f'--license {license!r} is no identifier of a licence; '
            f'{_LICENCE_HELP}'
        )
    check_folder(target, overwrite)
    weights, meta, dropped = read_for_publishing(
        source, config=config, teacher=teacher, backbone=backbone, trust=trust
    )
    cfg = parse_config_text(meta.get('cfg')) or {}
    if not cfg.get('model'):
        raise UserError(
            f'{source} holds no config, without which nobody can load it; '
            'give the one it was trained with (--config), or convert it if '
            'it is of another project: clouds convert'
        )
    classes = classes_of(meta)
    if not classes:
        raise UserError(
            f'{source} does not say which classes it has; give the config it '
            'was trained with: --config'
        )
    found, remarks = _matching_results(source, meta, results)
    try:
        with atomic_folder(target) as folder:
            done = write_published(
                source, folder / WEIGHTS, weights, meta, dropped
            )
            drawn = picture(folder / WEIGHTS) if picture else None
            if drawn is not None:
                (folder / PICTURE).write_bytes(_jpeg(drawn[0]))
            card = Card(
                name=name or target.name,
                meta=meta,
                cfg=cfg,
                classes=classes,
                sha256=done.sha256,
                results=found,
                license=license,
                picture=drawn and drawn[1],
            )
            text = json.dumps(config_json(card), indent=2) + '\n'
            (folder / 'config.json').write_text(text)
            (folder / 'config.py').write_text(meta['cfg'], encoding='utf-8')
            (folder / 'README.md').write_text(
                card_text(card), encoding='utf-8'
            )
    except OSError as error:
        raise UserError(
            f'{target} cannot be written: {disk_error(error)}'
        ) from error
    done.target = target / WEIGHTS
    if license is None:
        remarks.append(
            'the card says that the licence of the weights is unknown; '
            f'--license states it: {_LICENCE_HELP}'
        )
    return done, remarks


def check_folder(target: Path, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced.

    Raises:
        UserError: It is a file, or a folder with files in it, unless those
            were published and ``overwrite`` is given.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f'{target} is a file; give the name of a folder')
    if not target.is_dir():
        return
    there = sorted(path.name for path in target.iterdir())
    # NFS keeps a file under such a name that was removed while it was open.
    there = [name for name in there if not name.startswith('.nfs')]
    others = [n for n in there if n not in (*FILES, *_FOREIGN)]
    if others:
        raise UserError(
            f'the folder {target} holds files that no publication wrote '
            f'({", ".join(others[:3])}); give another folder'
        )
    if there and not overwrite:
        raise UserError(
            f'the folder {target} exists; --overwrite replaces what is in it'
        )


def run_picture(source: str | Path, iteration: int | None) -> tuple[Path, str]:
    """Find the picture that a run drew when it evaluated a checkpoint.

    Args:
        source: Checkpoint in the folder of its run.
        iteration: Of the checkpoint.

    Returns:
        The file and a caption.

    Raises:
        UserError: There is none of this checkpoint.
    """
    source = Path(source).expanduser()
    sha256 = sha256_of(source)
    for folder in _log_folders(source):
        path = folder / _RUN_PICTURE.format(iteration)
        if path.is_file() and _evaluates(folder / 'results.json', {sha256}):
            return path, 'Image, label and prediction, by domain'
    raise UserError(
        f'{source.parent} holds no pictures that its run drew of {source} '
        f'({_RUN_PICTURE.format(iteration)}); give an image: --picture FILE'
    )


def _log_folders(source):
    """Return the folders of the logs of a run, the newest first."""
    return sorted(
        (path.parent for path in source.parent.glob('*/results.json')),
        reverse=True,
    )


def _evaluates(path, hashes):
    """Tell whether a file of results is of one of some checkpoints."""
    try:
        content = read_json(path, 'the results')
    except UserError:
        return False
    return _checkpoint_hash(content) in hashes


def _checkpoint_hash(content):
    checkpoint = content.get('checkpoint') if isinstance(content, dict) else 0
    return checkpoint.get('sha256') if isinstance(checkpoint, dict) else None


def _matching_results(
    source: Path, meta: dict, given: Iterable[str | Path]
) -> tuple[list[dict], list[str]]:
    """Return the results of a checkpoint, and remarks.

    Raises:
        UserError: Given results are not those of the checkpoint.
    """
    origin = meta.get('source') or {}
    hashes = {origin.get('sha256'), origin.get('published_from')} - {None}
    if given:
        found = []
        for path in given:
            content = read_json(path, 'the results')
            _check_results(content, path, source, meta, hashes)
            found.append(content)
        return found, []
    paths = [source.parent / 'results.json']
    paths += [folder / 'results.json' for folder in _log_folders(source)]
    remarks = []
    for path in filter(Path.is_file, paths):
        try:
            content = read_json(path, 'the results')
            _check_results(content, path, source, meta, hashes)
            return [content], []
        except UserError as error:
            remarks.append(str(error))
    return [], [
        'the card has no numbers'
        + (f': {remarks[0]}' if remarks else f': no results.json of {source}')
        + f'. clouds test CONFIG {source} writes them',
    ]


def _check_results(content, path, source, meta, hashes):
    """Refuse results of another checkpoint, iteration or model."""
    if not isinstance(content, dict) or 'metrics' not in content:
        raise UserError(f'{path} is no results.json of an evaluation')
    if 'corruptions' in content:
        raise UserError(
            f'{path} has the numbers of corrupted images; a card takes those '
            'of test sets'
        )
    found = _checkpoint_hash(content)
    if found not in hashes:
        tested = content.get('checkpoint') or {}
        where = f'{tested.get("path")}' if tested else 'unsaved weights'
        raise UserError(
            f'{path} has the numbers of another checkpoint: of {where}, '
            f'iteration {content.get("iteration")}, SHA-256 '
            f'{str(found)[:12]}..., and {source} is iteration '
            f'{meta.get("iter")}, SHA-256 {min(hashes)[:12]}...'
        )
    text = (content.get('config') or {}).get('text')
    tested = parse_config_text(text)
    if tested:
        differing = model_differences(meta, Config(tested))
        if differing:
            raise UserError(
                f'{path} has the numbers of a model with other settings than '
                f'those that are published: {"; ".join(differing[:3])}'
            )


def _jpeg(image):
    """Encode a picture for a card."""
    image = image.convert('RGB')
    image.thumbnail((_LARGEST, _LARGEST))
    stream = io.BytesIO()
    image.save(stream, format='jpeg', quality=90)
    return stream.getvalue()
