"""Parts and settings of a loaded pipeline: ControlNet, LoRA, scheduler.

Also its safety checker, and what its text encoders read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log

from clouds_mmseg.generate.model_files import (
    fingerprint,
    local_folder,
    reach_hub,
    require_all_weights,
    unreachable,
)
from clouds_mmseg.generate.pipelines import import_diffusers, parameters_of
from clouds_mmseg.utils.errors import GenerationError

# Scheduler of the official CLOUDS code.
OFFICIAL_SCHEDULER = 'EulerDiscreteScheduler'
_TOKENIZERS = ('tokenizer', 'tokenizer_2', 'tokenizer_3')
# Characters of the cut text that a warning quotes.
_QUOTED = 60
SAFETY_CHECKERS = ('default', 'on', 'off')
# Entries of a config that decide the shapes which a ControlNet shares with
# its base model.
_SHARED_SHAPES = (
    'cross_attention_dim', 'block_out_channels', 'in_channels',
    'attention_head_dim', 'num_attention_heads', 'joint_attention_dim',
    'pooled_projection_dim', 'caption_projection_dim', 'addition_embed_type',
    'projection_class_embeddings_input_dim',
)  # fmt: skip


class LoadedPart(NamedTuple):
    """A ControlNet or another part that does not come with the pipeline.

    Attributes:
        part: The model, on the CPU.
        name: Name of its folder, or its id.
        fingerprint: Hash of its files, or its commit on the hub.
    """

    part: Any
    name: str
    fingerprint: str


def load_controlnet(
    model: str,
    *,
    dtype: torch.dtype,
    revision: str | None = None,
) -> LoadedPart:
    """Load a ControlNet of any class of diffusers.

    Args:
        model: Folder that ``save_pretrained`` wrote, or an id on the hub.
        dtype: Of the weights.
        revision: Commit or branch on the hub.

    Raises:
        GenerationError: It is not there, no ControlNet, or lacks weights.
    """
    diffusers = import_diffusers()
    folder, name, mark = part_folder(model, '--controlnet', revision)
    try:
        config = diffusers.ControlNetModel.load_config(str(folder))
        kind: Any = getattr(diffusers, config.get('_class_name', ''), None)
        name_of_kind = getattr(kind, '__name__', '')
        if 'ControlNet' not in name_of_kind:
            raise ValueError(
                f'its config.json is that of {config.get("_class_name")!r}'
            )
        if 'Union' in name_of_kind:
            raise ValueError(
                f'{name_of_kind} is a union of several controls, which is '
                'not supported: take a ControlNet of one control'
            )
        with require_all_weights():
            part = kind.from_pretrained(str(folder), dtype=dtype)
    except Exception as error:
        raise GenerationError(
            f'--controlnet {model} cannot be loaded as a ControlNet '
            f'({type(error).__name__}: {error})'
        ) from error
    return LoadedPart(part, name, mark)


def part_folder(
    model: str, option: str, revision: str | None = None
) -> tuple[Path, str, str]:
    """Find or download the folder of one model.

    Args:
        model: Folder, or id on the hub.
        option: That names it, for messages.
        revision: Commit or branch on the hub.

    Returns:
        Folder, name and fingerprint.

    Raises:
        GenerationError: It is not there and cannot be downloaded.
    """
    folder = local_folder(model, 'config.json', option=option)
    if folder is not None:
        given = Path(model).expanduser().is_dir()
        name = folder.resolve().name if given else model
        return folder, name, fingerprint(folder)
    try:
        reach_hub()
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=['*.json', '*.safetensors', '*.txt'],
            )
        )
    except Exception as error:
        raise unreachable(
            model, 'config.json', error, option=option
        ) from error
    return folder, model, folder.name


def check_controlnet(pipe: Any, controlnet: str, model: str) -> None:
    """Refuse a ControlNet that was trained for another base model.

    Args:
        pipe: Pipeline with ``controlnet``.
        controlnet: Its name in the message.
        model: Name of the base model in the message.

    Raises:
        GenerationError: It is of another class than the pipeline takes, or
            one of its widths differs from the base model's.
    """
    part = pipe.controlnet
    base = getattr(pipe, 'unet', None) or getattr(pipe, 'transformer', None)
    expected = type(pipe)._get_signature_types().get('controlnet', ())
    problems = []
    if not isinstance(part, tuple(k for k in expected if isinstance(k, type))):
        names = ' or '.join(getattr(k, '__name__', str(k)) for k in expected)
        problems.append(
            f'it is a {type(part).__name__}, {type(pipe).__name__} takes '
            f'{names}'
        )
    for key in _SHARED_SHAPES:
        ours, theirs = (
            _plain(getattr(m, 'config', {}).get(key)) for m in (part, base)
        )
        if ours != theirs and None not in (ours, theirs):
            problems.append(f'its {key} is {ours}, the model has {theirs}')
    if problems:
        raise GenerationError(
            f'--controlnet {controlnet} was trained for another base model '
            f'than --model {model}: {"; ".join(problems)}. Take the '
            'ControlNet of this model, or the model that it was made for.'
        )


def _plain(value):
    return list(value) if isinstance(value, (list, tuple)) else value


def add_lora(pipe: Any, path: str, scale: float, name: str) -> str:
    """Add a LoRA to the weights of a pipeline.

    Args:
        pipe: A pipeline of diffusers; is changed.
        path: ``.safetensors`` file.
        scale: Factor of what it adds; 1 is as it was trained.
        name: Of the model, in messages.

    Returns:
        Fingerprint of the file.

    Raises:
        GenerationError: It is no such file, ``peft`` is missing, the
            pipeline takes none, or it was trained for another model.
    """
    file = Path(path).expanduser()
    if file.suffix != '.safetensors' or not file.is_file():
        raise GenerationError(
            f'--lora {path} must be an existing .safetensors file'
        )
    if not hasattr(pipe, 'load_lora_weights'):
        raise GenerationError(
            f'--lora {path}: {type(pipe).__name__} of {name} takes none'
        )
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise GenerationError(
            f'--lora {path} needs the package peft; install it with: '
            "pip install 'clouds_mmseg[generate]'"
        ) from error
    try:
        with require_all_weights(
            'led to unexpected keys', 'led to missing keys'
        ):
            pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        if not any(pipe.get_list_adapters().values()):
            raise ValueError('none of its weights belongs to this model')
        pipe.fuse_lora(lora_scale=scale)
        pipe.unload_lora_weights()
    except Exception as error:
        text = ' '.join(str(error).split())
        raise GenerationError(
            f'--lora {path} does not fit {name} ({type(error).__name__}: '
            f'{text[:300]}). It was trained for another model.'
        ) from error
    return fingerprint(file)


def set_safety_checker(pipe: Any, setting: str, name: str) -> bool:
    """Switch the check for unsafe images on or off.

    Args:
        pipe: A pipeline of diffusers; is changed.
        setting: ``'default'`` keeps the model's setting, ``'on'`` requires a
            checker, ``'off'`` removes it.
        name: Of the model, in messages.

    Returns:
        Whether the pipeline checks its images.

    Raises:
        GenerationError: ``'on'``, and the model has none.
    """
    if setting not in SAFETY_CHECKERS:
        raise GenerationError(
            f'--safety-checker must be one of {", ".join(SAFETY_CHECKERS)}, '
            f'got {setting!r}'
        )
    if setting == 'off' and getattr(pipe, 'safety_checker', None) is not None:
        pipe.safety_checker = None
        pipe.register_to_config(requires_safety_checker=False)
    there = getattr(pipe, 'safety_checker', None) is not None
    if setting == 'on' and not there:
        raise GenerationError(f'--safety-checker on: {name} comes without one')
    return there


def set_scheduler(pipe: Any, scheduler: str, name: str) -> str:
    """Replace the scheduler of a pipeline.

    Args:
        pipe: A pipeline of diffusers; is changed.
        scheduler: ``'auto'``, ``'model'`` or a class name of diffusers.
        name: Of the model, in messages.

    Returns:
        Class name of the scheduler that it has now.

    Raises:
        GenerationError: The scheduler does not fit the model.
    """
    own = type(pipe.scheduler)
    if scheduler == 'model':
        return own.__name__
    fitting = {c.__name__: c for c in pipe.scheduler.compatibles}
    fitting[own.__name__] = own
    if scheduler == 'auto':
        scheduler = OFFICIAL_SCHEDULER
        if scheduler not in fitting:
            print_log(
                f'{name} is not made for {scheduler}; its own '
                f'{own.__name__} is used',
                logger='current',
            )
            return own.__name__
    if scheduler not in fitting:
        raise GenerationError(
            f'--scheduler {scheduler!r} does not fit {name}; use auto, model '
            f'or one of {", ".join(sorted(fitting))}'
        )
    pipe.scheduler = fitting[scheduler].from_config(pipe.scheduler.config)
    return scheduler


def prompt_limits(kind: type, tokenizers: Mapping[str, Any]) -> dict[str, int]:
    """Return how many tokens the text encoders of a pipeline read.

    Args:
        kind: Class of the pipeline.
        tokenizers: Name of the part -> tokenizer.

    Returns:
        Name of the part -> tokens, with those that the tokenizer adds itself.
        One without a limit of its own (T5, language models) has that of the
        call of the pipeline.
    """
    longest = parameters_of(kind).get('max_sequence_length')
    longest = longest.default if longest is not None else None
    limits = {}
    for key, tokenizer in tokenizers.items():
        own = getattr(tokenizer, 'model_max_length', None) or 10**9
        limit = min(own, longest) if isinstance(longest, int) else own
        # Tokenizers without a limit have an enormous one.
        if limit <= 10**6:
            limits[key] = limit
    return limits


class TextLimit:
    """How long a prompt the text encoders of a pipeline read.

    Args:
        model: Folder of a pipeline; weights are neither needed nor read.

    Attributes:
        tokens: Largest limit of its text encoders: what one cuts, another
            may read.
        name: Of the pipeline.

    Raises:
        GenerationError: It is not there, or no tokenizer of it has a limit.
    """

    def __init__(self, model: str):
        diffusers = import_diffusers()
        folder = local_folder(model, 'model_index.json', option='--for-model')
        if folder is None:
            raise GenerationError(
                f'--for-model {model} is not here: give the folder of the '
                'pipeline, of which model_index.json and the folders of the '
                'tokenizers are enough'
            )
        from transformers import AutoTokenizer

        index = diffusers.DiffusionPipeline.load_config(str(folder))
        kind = getattr(diffusers, index['_class_name'], None)
        try:
            tokenizers = {
                key: AutoTokenizer.from_pretrained(str(folder / key))
                for key in _TOKENIZERS
                if (folder / key).is_dir()
            }
        except (OSError, ValueError, KeyError) as error:
            raise GenerationError(
                f'--for-model {model}: a tokenizer cannot be loaded '
                f'({type(error).__name__}: {error})'
            ) from error
        limits = prompt_limits(kind, tokenizers) if kind else {}
        if not limits:
            raise GenerationError(
                f'--for-model {model}: none of its tokenizers says how much '
                'its text encoder reads'
            )
        longest = max(limits, key=lambda key: limits[key])
        self.tokens = limits[longest]
        self.name = folder.resolve().name
        self._tokenizer = tokenizers[longest]

    def fits(self, text: str) -> bool:
        """Tell whether a prompt is read to its end."""
        ids = self._tokenizer(text, truncation=False, verbose=False).input_ids
        return len(ids) <= self.tokens


def find_truncations(
    pipe: Any, name: str, prompts: Sequence[tuple[int, str]]
) -> list[str]:
    """Find the prompts that a text encoder truncates.

    Args:
        pipe: A pipeline of diffusers.
        name: Of the model, in messages.
        prompts: Line and text of each.

    Returns:
        A sentence for each line and tokenizer.
    """
    found = []
    tokenizers = {
        key: getattr(pipe, key)
        for key in _TOKENIZERS
        if getattr(pipe, key, None) is not None
    }
    for key, limit in prompt_limits(type(pipe), tokenizers).items():
        tokenizer = tokenizers[key]
        for line, text in prompts:
            ids = tokenizer(text, truncation=False, verbose=False).input_ids
            if len(ids) <= limit:
                continue
            # The last token is the end token.
            lost = tokenizer.decode(ids[limit - 1 :], skip_special_tokens=True)
            if len(lost) > _QUOTED:
                lost = lost[:_QUOTED] + '...'
            found.append(
                f'line {line} has {len(ids)} tokens, {key} of {name} reads '
                f'{limit}: lost is {lost!r}'
            )
    return found
