"""Loading of diffusion pipelines: the only file that imports diffusers."""

from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log

from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.generate.model_files import (
    fingerprint,
    local_folder,
    unreachable,
)

# The official CLOUDS code samples with it.
DEFAULT_SCHEDULER = 'EulerDiscreteScheduler'
_MARKER = 'model_index.json'
_QUOTED = 60


class Loaded(NamedTuple):
    """A pipeline and which one it is.

    Attributes:
        pipe: The pipeline of diffusers, on the CPU.
        name: Name of its folder, or its id.
        fingerprint: Of its files, or its commit on the hub.
    """

    pipe: Any
    name: str
    fingerprint: str


def load_pipeline(model, mode, *, dtype, variant=None, revision=None):
    """Load a pipeline of diffusers.

    Args:
        model (str): Folder that ``save_pretrained`` wrote, or an id on the
            Hugging Face hub.
        mode (str): ``'txt2img'`` or ``'img2img'``.
        dtype (torch.dtype): Of the weights.
        variant (str, optional): Of the weight files, such as ``'fp16'``.
        revision (str, optional): Commit or branch on the hub.

    Returns:
        Loaded: Without a progress bar of its own.

    Raises:
        GenerationError: diffusers is missing, or the model is not there or
            of an unknown kind.
    """
    try:
        import diffusers
    except ImportError as error:
        raise GenerationError(
            f'the diffusers backend cannot be imported ({error}); install it '
            "with: pip install 'clouds_mmseg[generate]'"
        ) from error
    folder = local_folder(model, _MARKER)
    if folder is not None:
        # In the pretrained folder a model keeps its id.
        given = Path(model).expanduser().is_dir()
        name = folder.resolve().name if given else model
        mark = fingerprint(folder)
    else:
        try:
            folder = diffusers.DiffusionPipeline.download(
                model, variant=variant, revision=revision
            )
        except Exception as error:
            raise unreachable(model, _MARKER, error) from error
        # A snapshot's folder is named after its commit.
        name, mark = model, str(folder).replace('\\', '/').split('/')[-1]
    loader = (
        diffusers.AutoPipelineForText2Image
        if mode == 'txt2img'
        else diffusers.AutoPipelineForImage2Image
    )
    try:
        pipe = loader.from_pretrained(
            str(folder), dtype=dtype, variant=variant
        )
    except Exception as error:
        raise GenerationError(
            f'--model {model} cannot be loaded for {mode} '
            f'({type(error).__name__}: {error})'
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return Loaded(pipe, name, mark)


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
