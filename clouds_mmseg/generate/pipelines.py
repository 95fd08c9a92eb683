"""Loading of diffusers pipelines, and what one of them can do.

A pipeline is never recognised by the name of a model: which class serves a
mode follows from diffusers' own tables of pipelines and from the arguments
that the class takes.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log

from clouds_mmseg.generate.model_files import (
    check_memory,
    fingerprint,
    local_folder,
    pick_dtype,
    reach_hub,
    require_all_weights,
    unreachable,
    weights_in,
)
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.locate import find_or_fetch_from_hub
from clouds_mmseg.weights.model_folder import free_memory

MODES = ('txt2img', 'img2img', 'edit', 'label2img')
_MARKER = 'model_index.json'
# diffusion_pytorch_model[.fp16][-00001-of-00002].safetensors; group 1 is the
# variant.
_WEIGHTS = re.compile(
    r'(?:diffusion_pytorch_model|pytorch_model|model)'
    r'(?:\.([\w-]+?))?(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)'
)


def parameters_of(pipeline: type | Any) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a call of a pipeline or of its class."""
    kind = pipeline if isinstance(pipeline, type) else type(pipeline)
    return inspect.signature(kind.__call__).parameters


def has_controlnet(kind: type) -> bool:
    """Tell whether a class of pipelines has a ControlNet among its parts."""
    return 'controlnet' in inspect.signature(kind.__init__).parameters


def _restyles(kind):
    """Whether it adds noise to an image and removes it (img2img)."""
    taken = parameters_of(kind)
    return (
        {'prompt', 'image', 'strength'} <= set(taken)
        and not {'mask_image', 'control_image'} & set(taken)
        and not has_controlnet(kind)
    )


def _edits(kind):
    """Whether it changes an image as the prompt says (edit)."""
    taken = parameters_of(kind)
    return (
        {'prompt', 'image'} <= set(taken)
        and not {'strength', 'mask_image', 'control_image'} & set(taken)
        and not has_controlnet(kind)
    )


def _follows_control(kind):
    """Whether it has the layout of a conditioning image (label2img)."""
    taken = parameters_of(kind)
    controlled = 'control_image' in taken or (
        has_controlnet(kind) and 'image' in taken
    )
    return controlled and not {'strength', 'mask_image'} & set(taken)


def class_for_mode(name: str, mode: str, controlled: bool = False) -> Any:
    """Choose the class of diffusers that serves a mode with some weights.

    Args:
        name: Class in the pipeline's ``model_index.json``.
        mode: One of ``MODES``.
        controlled: Mode label2img: whether there is a ControlNet.

    Returns:
        For example ``StableDiffusionXLImg2ImgPipeline`` for
        ``StableDiffusionXLPipeline`` and img2img.

    Raises:
        GenerationError: diffusers has no such class, or none that does this
            with these weights; the message says which modes there are.
    """
    import diffusers

    own = getattr(diffusers, name, None)
    if not isinstance(own, type):
        raise GenerationError(
            f'diffusers {diffusers.__version__} has no pipeline {name!r}'
        )
    found = _classes(own, mode, controlled)
    if found:
        return found[0]
    possible = [m for m in MODES[:3] if m != mode and _classes(own, m)]
    does = f': it does {" and ".join(possible)}' if possible else ''
    if mode == 'label2img':
        does = ': diffusers has no pipeline of it with a ControlNet'
        if not controlled and _classes(own, mode, True):
            does = ' without --controlnet'
    raise GenerationError(f'{name} cannot do --mode {mode}{does}')


def _classes(own, mode, controlled=False):
    """Classes that serve a mode with the weights of a class, best first."""
    import diffusers
    from diffusers.pipelines.auto_pipeline import SUPPORTED_TASKS_MAPPINGS

    name = own.__name__
    texts, images = SUPPORTED_TASKS_MAPPINGS[:2]
    keys = [
        key
        for table in SUPPORTED_TASKS_MAPPINGS
        for key, kind in table.items()
        if kind.__name__ == name
    ]

    def from_table(table):
        return [table[key] for key in keys if key in table]

    if mode == 'txt2img':
        found = [k for k in from_table(texts) if not _follows_control(k)]
        alone = {'image', 'video', 'control_image'}.isdisjoint(
            parameters_of(own)
        )
        found += [own] if not keys and alone else []
        return [k for k in found if 'prompt' in parameters_of(k)]
    if mode == 'img2img':
        found = [*from_table(images), own]
        if not from_table(images):
            # diffusers' tables lack some, such as Sana Sprint's.
            other = name.replace('Pipeline', 'Img2ImgPipeline')
            found += [k for k in [getattr(diffusers, other, None)] if k]
        return [k for k in found if _restyles(k)]
    if mode == 'edit':
        return [k for k in [own, *from_table(images)] if _edits(k)]
    return _controlled_classes(own, controlled, from_table(texts), keys)


def _controlled_classes(own, controlled, plain, keys):
    """Classes with the layout of a conditioning image, the best first."""
    import diffusers
    from diffusers.pipelines.auto_pipeline import (
        AUTO_TEXT2IMAGE_PIPELINES_MAPPING as texts,
    )

    if not controlled:
        # Its own weights follow an image, such as FLUX's depth model.
        return [own] if _follows_control(own) else []
    found = [own] if has_controlnet(own) else []
    found += [texts[k] for k in (f'{key}-controlnet' for key in keys)
              if k in texts]  # fmt: skip
    for kind in [own, *plain]:
        name = kind.__name__.replace('Pipeline', 'ControlNetPipeline')
        found.append(getattr(diffusers, name, None))
    return [
        kind
        for kind in found
        if isinstance(kind, type)
        and has_controlnet(kind)
        and _follows_control(kind)
    ]


class LoadedPipeline(NamedTuple):
    """A loaded pipeline and its identity.

    Attributes:
        pipe: The pipeline of diffusers, on the CPU.
        name: Name of its folder, or its id.
        fingerprint: Hash of its files, or its commit on the hub.
        variant: Of the weight files that were loaded.
        dtype: Of the weights in memory.
    """

    pipe: Any
    name: str
    fingerprint: str
    variant: str | None
    dtype: torch.dtype


def import_diffusers() -> Any:
    """Import diffusers.

    Raises:
        GenerationError: It is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise GenerationError(
            f'the diffusers backend cannot be imported ({error}); install it '
            "with: pip install 'clouds_mmseg[generate]'"
        ) from error
    return diffusers


def load_pipeline(
    model: str,
    mode: str,
    *,
    dtype: str = 'auto',
    device: torch.device,
    variant: str | None = None,
    revision: str | None = None,
    single_file_config: str | None = None,
    load_controlnet: Callable[[torch.dtype], Any] | None = None,
) -> LoadedPipeline:
    """Load a pipeline of diffusers.

    Args:
        model: Folder that ``save_pretrained`` wrote, a checkpoint in one
            file (``.safetensors``, ``.ckpt``), or an id on the Hugging Face
            hub.
        mode: One of ``MODES``.
        dtype: Of the weights, see :func:`~.model_files.pick_dtype`.
        device: On which they will be used.
        variant: Of the weight files, such as ``'fp16'``. By default the
            files without variant, or where a part has none, the only variant
            of it.
        revision: Commit or branch on the hub.
        single_file_config: For a checkpoint in one file: the folder of a
            pipeline of that kind, which provides configs and tokenizer. By
            default that of the original model, where it is in the pretrained
            folder or the hub's cache.
        load_controlnet: Mode label2img: returns its ControlNet with weights
            of a type.

    Raises:
        GenerationError: diffusers is missing, the model is not there, of an
            unknown kind, for another mode or larger than the memory, there
            is no such variant, or the files do not have all of the weights.
    """
    diffusers = import_diffusers()
    if Path(model).expanduser().is_file():
        if variant or revision:
            raise GenerationError(
                f'--model {model} is one file: --variant and --revision do '
                'not belong to it'
            )
        return _load_file(
            model, mode, dtype, device, single_file_config, load_controlnet
        )
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
    folder = Path(folder)
    variant = pick_variant(folder, variant, model)
    stored = weights_in(_weight_files(folder, variant))
    kept = pick_dtype(dtype, device, stored.dtype)
    # They are read into the memory of the machine first.
    check_memory(
        model, stored.numbers * kept.itemsize, kept, None, free_memory(None)
    )
    try:
        index = diffusers.DiffusionPipeline.load_config(str(folder))
        kind = class_for_mode(
            index['_class_name'], mode, load_controlnet is not None
        )
    except Exception as error:
        raise _unloadable(model, mode, error) from error
    parts = _with_controlnet(load_controlnet, kept)
    try:
        with require_all_weights():
            pipe = kind.from_pretrained(
                str(folder),
                dtype=kept,
                variant=variant,
                **parts,
            )
    except Exception as error:
        raise _unloadable(model, mode, error) from error
    pipe.set_progress_bar_config(disable=True)
    return LoadedPipeline(pipe, name, mark, variant, kept)


def _with_controlnet(load, dtype):
    return {} if load is None else dict(controlnet=load(dtype))


def _unloadable(model, mode, error, remark=''):
    what = str(error)
    if not isinstance(error, GenerationError):
        what = f'{type(error).__name__}: {error}'
    return GenerationError(
        f'--model {model} cannot be loaded for {mode}{remark} ({what})'
    )


def _weight_files(folder, variant):
    """Return the weight files of a pipeline's parts that will be loaded."""
    found = {}
    for path in sorted(folder.glob('*/*.safetensors')):
        match = _WEIGHTS.fullmatch(path.name)
        if match and match.group(1) in (None, variant):
            parts = found.setdefault(path.parent.name, {})
            parts.setdefault(match.group(1), []).append(path)
    return [
        path
        for parts in found.values()
        for path in parts.get(variant, parts.get(None, []))
    ]


def _load_file(model, mode, dtype, device, config, load_controlnet):
    """Load a checkpoint that has all parts of a pipeline in one file."""
    import diffusers

    path = Path(model).expanduser()
    folder = _config_folder(path, config)
    stored = weights_in([path] if path.suffix == '.safetensors' else [])
    kept = pick_dtype(dtype, device, stored.dtype)
    check_memory(
        model, stored.numbers * kept.itemsize, kept, None, free_memory(None)
    )
    parts = _with_controlnet(load_controlnet, kept)
    try:
        # diffusers reads pickles with weights_only: no code is executed.
        index = diffusers.DiffusionPipeline.load_config(str(folder))
        own = getattr(diffusers, index['_class_name'])
        kind = class_for_mode(index['_class_name'], mode, bool(parts))
        with require_all_weights():
            pipe = own.from_single_file(
                str(path),
                config=str(folder),
                dtype=kept,
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
        if kind is not own:
            pipe = kind(**_parts_for(kind, pipe), **parts)
    except Exception as error:
        raise _unloadable(
            model,
            mode,
            error,
            f' with the configs of {folder}; --single-file-config names the '
            'folder of a pipeline of the same kind',
        ) from error
    pipe.set_progress_bar_config(disable=True)
    mark = f'{fingerprint(path)}-{fingerprint(folder, configs=True)}'
    return LoadedPipeline(pipe, path.name, mark, None, kept)


def _parts_for(kind, pipe):
    """Arguments of another class of pipelines, from the parts of one."""
    taken = inspect.signature(kind.__init__).parameters
    return {
        key: value
        for key, value in {**pipe.config, **pipe.components}.items()
        if key in taken
    }


def _config_folder(path, given):
    """Return the folder with the configs and tokenizer of a checkpoint."""
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


def pick_variant(
    folder: Path, requested: str | None, model: str
) -> str | None:
    """Choose the variant of the weight files of a pipeline's folder.

    Args:
        folder: What ``save_pretrained`` wrote.
        requested: Variant; None chooses one.
        model: Its name in messages.

    Returns:
        A variant that at least one part has, where the others have files
        without variant; None for files without variant.

    Raises:
        GenerationError: No part has the variant, a part has neither it nor
            files without variant, or there are several to choose from.
    """
    parts = {}
    for path in sorted(folder.glob('*/*')):
        match = _WEIGHTS.fullmatch(path.name)
        if match:
            parts.setdefault(path.parent.name, set()).add(match.group(1))
    present = sorted({v for found in parts.values() for v in found if v})
    variant_only = sorted(
        name for name, found in parts.items() if None not in found
    )
    hint = (
        f'the variants there are {", ".join(present)}'
        if present
        else 'it has no variants: leave --variant out'
    )
    if requested is not None and requested not in present:
        raise GenerationError(
            f'--variant {requested}: --model {model} has no such weight '
            f'files; {hint}'
        )
    # Parts without default files must have one variant in common.
    fitting = [
        v for v in present if all(v in parts[name] for name in variant_only)
    ]
    if requested is None and not variant_only:
        return None
    if requested is None and len(fitting) == 1:
        print_log(
            f'{model} has plain weights for some parts or none; --variant '
            f'{fitting[0]} is used, the only one that '
            f'{", ".join(variant_only)} has',
            logger='current',
        )
        return fitting[0]
    if requested in fitting:
        return requested
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
