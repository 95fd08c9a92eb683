"""Loading of diffusion pipelines: the only file that imports diffusers."""

import logging
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.generate.model_files import (
    fingerprint,
    local_folder,
    reach_hub,
    unreachable,
)
from clouds_mmseg.utils.pretrained import (
    MissingWeightsError,
    find_or_fetch_from_hub,
)

# The official CLOUDS code samples with it.
DEFAULT_SCHEDULER = 'EulerDiscreteScheduler'
_MARKER = 'model_index.json'
_QUOTED = 60
# diffusion_pytorch_model.fp16.safetensors, or with -00001-of-00002 behind
# the variant; without a variant, that part is missing.
_WEIGHTS = re.compile(
    r'(?:diffusion_pytorch_model|pytorch_model|model)'
    r'(?:\.([\w-]+?))?(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)'
)
SAFETY_CHECKERS = ('default', 'on', 'off')


class Loaded(NamedTuple):
    """A pipeline and which one it is.

    Attributes:
        pipe: The pipeline of diffusers, on the CPU.
        name: Name of its folder, or its id.
        fingerprint: Of its files, or its commit on the hub.
        variant: Of the weight files that were loaded.
    """

    pipe: Any
    name: str
    fingerprint: str
    variant: str | None


def load_pipeline(
    model,
    mode,
    *,
    dtype,
    variant=None,
    revision=None,
    single_file_config=None,
):
    """Load a pipeline of diffusers.

    Args:
        model (str): Folder that ``save_pretrained`` wrote, a checkpoint in
            one file (``.safetensors``, ``.ckpt``), or an id on the Hugging
            Face hub.
        mode (str): ``'txt2img'`` or ``'img2img'``.
        dtype (torch.dtype): Of the weights.
        variant (str, optional): Of the weight files, such as ``'fp16'``. By
            default the plain ones, or where a part has none, the only
            variant that there is.
        revision (str, optional): Commit or branch on the hub.
        single_file_config (str, optional): For a checkpoint in one file: the
            folder of a pipeline of that kind, whose configs and tokenizer
            are taken. By default that of the original model, where it is
            in the pretrained folder or the hub's cache.

    Returns:
        Loaded: Without a progress bar of its own.

    Raises:
        GenerationError: diffusers is missing, the model is not there or of
            an unknown kind, there is no such variant, or the files do not
            have all of the weights.
    """
    try:
        import diffusers
    except ImportError as error:
        raise GenerationError(
            f'the diffusers backend cannot be imported ({error}); install it '
            "with: pip install 'clouds_mmseg[generate]'"
        ) from error
    if Path(model).expanduser().is_file():
        if variant or revision:
            raise GenerationError(
                f'--model {model} is one file: --variant and --revision do '
                'not belong to it'
            )
        return _load_file(model, mode, dtype, single_file_config)
    if single_file_config:
        raise GenerationError(
            '--single-file-config belongs to a --model that is a file, got '
            f'--model {model}'
        )
    folder = local_folder(model, _MARKER)
    if folder is not None:
        # In the pretrained folder a model keeps its id.
        given = Path(model).expanduser().is_dir()
        name = folder.resolve().name if given else model
        mark = fingerprint(folder)
    else:
        try:
            reach_hub()
            folder = diffusers.DiffusionPipeline.download(
                model, variant=variant, revision=revision
            )
        except Exception as error:
            raise unreachable(model, _MARKER, error) from error
        # A snapshot's folder is named after its commit.
        name, mark = model, str(folder).replace('\\', '/').split('/')[-1]
    variant = pick_variant(Path(folder), variant, model)
    loader = (
        diffusers.AutoPipelineForText2Image
        if mode == 'txt2img'
        else diffusers.AutoPipelineForImage2Image
    )
    try:
        with _complete():
            pipe = loader.from_pretrained(
                str(folder), dtype=dtype, variant=variant
            )
    except Exception as error:
        raise GenerationError(
            f'--model {model} cannot be loaded for {mode} '
            f'({type(error).__name__}: {error})'
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return Loaded(pipe, name, mark, variant)


def _load_file(model, mode, dtype, config):
    """Load a checkpoint that has all parts of a pipeline in one file."""
    import diffusers

    path = Path(model).expanduser()
    folder = _config_folder(path, config)
    try:
        # diffusers reads pickles with weights_only: none of them runs.
        index = diffusers.DiffusionPipeline.load_config(str(folder))
        kind = getattr(diffusers, index['_class_name'])
        with _complete():
            pipe = kind.from_single_file(
                str(path),
                config=str(folder),
                dtype=dtype,
                local_files_only=True,
            )
        for name, part in pipe.components.items():
            lost = [
                key
                for key, value in getattr(part, 'state_dict', dict)().items()
                if getattr(value, 'is_meta', False)
            ]
            if lost:
                raise ValueError(
                    f'it lacks {len(lost)} weights of {name}, '
                    f'such as {lost[0]}'
                )
        if mode == 'img2img':
            pipe = diffusers.AutoPipelineForImage2Image.from_pipe(pipe)
    except Exception as error:
        raise GenerationError(
            f'--model {model} cannot be loaded for {mode} with the configs '
            f'of {folder} ({type(error).__name__}: {error}). '
            '--single-file-config names the folder of a pipeline of the same '
            'kind.'
        ) from error
    pipe.set_progress_bar_config(disable=True)
    mark = f'{fingerprint(path)}-{fingerprint(folder, configs=True)}'
    return Loaded(pipe, path.name, mark, None)


def _config_folder(path, given):
    """The folder with the configs and the tokenizer of a checkpoint."""
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    if given:
        folder = local_folder(given, _MARKER, option='--single-file-config')
        if folder is not None:
            return folder
        repository = given
    else:
        try:
            checkpoint = load_single_file_checkpoint(str(path))
            repository = fetch_diffusers_config(checkpoint)
            repository = repository['pretrained_model_name_or_path']
        except Exception as error:
            raise GenerationError(
                f'--model {path} is no checkpoint that diffusers reads '
                f'({type(error).__name__}: {error})'
            ) from error
    try:
        return find_or_fetch_from_hub(
            repository, [_MARKER], f'the configs of {repository}', fetch=False
        ).parent
    except MissingWeightsError as error:
        raise GenerationError(
            f'--model {path} is a checkpoint in one file: it holds weights, '
            'and neither configs nor a tokenizer. It looks like '
            f'{repository}, whose configs are not here. Give the folder of a '
            'pipeline of that kind as --single-file-config (its weights are '
            'not needed), or have it with:\n  hf download '
            f"{repository} --exclude '*.safetensors' '*.bin' '*.ckpt' "
            '--local-dir DIR'
        ) from error


def pick_variant(folder: Path, wanted: str | None, model: str) -> str | None:
    """Choose the variant of the weight files of a pipeline's folder.

    Args:
        folder: What ``save_pretrained`` wrote.
        wanted: The variant asked for; None chooses.
        model: What the user called it.

    Returns:
        A variant that at least one part has, where the others have plain
        files; None for the plain files.

    Raises:
        GenerationError: No part has the variant, a part has neither it nor
            plain files, or there are several to choose from.
    """
    parts = {}
    for path in sorted(folder.glob('*/*')):
        match = _WEIGHTS.fullmatch(path.name)
        if match:
            parts.setdefault(path.parent.name, set()).add(match.group(1))
    present = sorted({v for found in parts.values() for v in found if v})
    bare = sorted(name for name, found in parts.items() if None not in found)
    there = (
        f'the variants there are {", ".join(present)}'
        if present
        else 'it has no variants: leave --variant out'
    )
    if wanted is not None and wanted not in present:
        raise GenerationError(
            f'--variant {wanted}: --model {model} has no such weight files; '
            + there
        )
    # What has no plain files must all have one variant.
    fitting = [v for v in present if all(v in parts[name] for name in bare)]
    if wanted is None and not bare:
        return None
    if wanted is None and len(fitting) == 1:
        print_log(
            f'{model} has plain weights for some parts or none; --variant '
            f'{fitting[0]} is used, the only one that {", ".join(bare)} has',
            logger='current',
        )
        return fitting[0]
    if wanted in fitting:
        return wanted
    having = '; '.join(
        f'{name}: {", ".join(sorted(v or "plain" for v in found))}'
        for name, found in parts.items()
    )
    raise GenerationError(
        f'--model {model} has several variants of weight files ({having}). '
        + (
            f'Choose one with --variant {"|".join(fitting)}.'
            if fitting
            else 'None of them is there for every part: download the rest.'
        )
    )


def set_safety_checker(pipe: Any, wanted: str, name: str) -> bool:
    """Switch the check for unsafe images on or off.

    Args:
        pipe: A pipeline of diffusers; is changed.
        wanted: ``'default'`` leaves it as the model has it, ``'on'`` demands
            one, ``'off'`` removes it.
        name: What the model is called in messages.

    Returns:
        Whether the pipeline checks its images.

    Raises:
        GenerationError: ``'on'``, and the model has none.
    """
    if wanted not in SAFETY_CHECKERS:
        raise GenerationError(
            f'--safety-checker must be one of {", ".join(SAFETY_CHECKERS)}, '
            f'got {wanted!r}'
        )
    if wanted == 'off' and getattr(pipe, 'safety_checker', None) is not None:
        pipe.safety_checker = None
        pipe.register_to_config(requires_safety_checker=False)
    there = getattr(pipe, 'safety_checker', None) is not None
    if wanted == 'on' and not there:
        raise GenerationError(f'--safety-checker on: {name} comes without one')
    return there


@contextmanager
def _complete():
    """Turn a warning that some weights are random into an error.

    diffusers and transformers initialise what a file lacks and go on; such a
    model makes images of noise.
    """

    class Collect(logging.Handler):
        found = []

        def emit(self, record):
            text = record.getMessage()
            if 'newly initialized' in text:
                self.found.append(text)

    collect = Collect()
    collect.found = []
    loggers = [logging.getLogger(n) for n in ('diffusers', 'transformers')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(collect)
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(collect)
            logger.setLevel(level)
    if collect.found:
        raise ValueError(
            'its files lack weights, or have some of another shape: '
            + ' '.join(collect.found[0].split())
        )


def set_scheduler(pipe, wanted, name):
    """Give a pipeline another scheduler.

    Args:
        pipe (DiffusionPipeline): Is changed.
        wanted (str): ``'auto'``, ``'model'`` or a class name of diffusers.
        name (str): What the model is called in messages.

    Returns:
        str: Class name of the scheduler that it has now.

    Raises:
        GenerationError: The scheduler does not fit the model.
    """
    own = type(pipe.scheduler)
    if wanted == 'model':
        return own.__name__
    fitting = {c.__name__: c for c in pipe.scheduler.compatibles}
    fitting[own.__name__] = own
    if wanted == 'auto':
        wanted = DEFAULT_SCHEDULER
        if wanted not in fitting:
            print_log(
                f'{name} is not made for {wanted}; its own {own.__name__} is '
                'used',
                logger='current',
            )
            return own.__name__
    if wanted not in fitting:
        raise GenerationError(
            f'--scheduler {wanted!r} does not fit {name}; use auto, model or '
            f'one of {", ".join(sorted(fitting))}'
        )
    pipe.scheduler = fitting[wanted].from_config(pipe.scheduler.config)
    return wanted


def truncations(pipe, name, prompts):
    """Find the prompts that a text encoder cuts.

    Args:
        pipe (DiffusionPipeline): Its tokenizers are asked.
        name (str): What the model is called in messages.
        prompts (Sequence[tuple[int, str]]): Line and text of each.

    Returns:
        list[str]: A sentence for each line and tokenizer.
    """
    found = []
    for key in ('tokenizer', 'tokenizer_2', 'tokenizer_3'):
        tokenizer = getattr(pipe, key, None)
        # Tokenizers without a limit of their own have an enormous one.
        if tokenizer is None or tokenizer.model_max_length > 10**6:
            continue
        limit = tokenizer.model_max_length
        for line, text in prompts:
            ids = tokenizer(text, truncation=False, verbose=False).input_ids
            if len(ids) <= limit:
                continue
            # The last place goes to the end token.
            lost = tokenizer.decode(ids[limit - 1 :], skip_special_tokens=True)
            if len(lost) > _QUOTED:
                lost = lost[:_QUOTED] + '...'
            found.append(
                f'line {line} has {len(ids)} tokens, {key} of {name} reads '
                f'{limit}: lost is {lost!r}'
            )
    return found
