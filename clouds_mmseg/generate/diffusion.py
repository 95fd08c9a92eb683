"""Image generation with a diffusion model of diffusers.

:class:`DiffusionBackend` generates the images; :func:`load_pipeline` and the
functions after it load and configure the pipeline.
"""

import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image

from clouds_mmseg.generate.backends import (
    GeneratedImage,
    Request,
    open_source,
    working_size,
)
from clouds_mmseg.generate.model_files import (
    fingerprint,
    local_folder,
    pick_device,
    pick_dtype,
    reach_hub,
    unreachable,
)
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.locate import (
    find_or_fetch_from_hub,
)

# Scheduler of the official CLOUDS code.
DEFAULT_SCHEDULER = 'EulerDiscreteScheduler'
_MARKER = 'model_index.json'
# Characters of the cut text that a warning quotes.
_QUOTED = 60
# diffusion_pytorch_model[.fp16][-00001-of-00002].safetensors; group 1 is the
# variant.
_WEIGHTS = re.compile(
    r'(?:diffusion_pytorch_model|pytorch_model|model)'
    r'(?:\.([\w-]+?))?(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)'
)
SAFETY_CHECKERS = ('default', 'on', 'off')


class DiffusionBackend:
    """A text-to-image or image-to-image pipeline of diffusers.

    Any pipeline that diffusers' ``AutoPipeline`` classes load will do:
    Stable Diffusion 1.x, 2.x, XL and later ones. The noise of an image comes
    from a CPU generator of its own, so that it does not depend on the device.

    Args:
        model: Folder that ``save_pretrained`` wrote, a checkpoint in one
            file, or an id on the Hugging Face hub.
        mode: ``'txt2img'`` or ``'img2img'``.
        size: Width and height in pixels; an int is both of them, or in mode
            img2img the short edge of the model's input. In that mode the
            result is resized to the size of the source image, which its
            label has.
        scheduler: ``'auto'`` (Euler where the model allows it, else its
            own), ``'model'`` (its own) or a class name of diffusers.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance.
        negative_prompt: What the images should not show.
        strength: Mode img2img: share of the steps that is done, in (0, 1];
            1 ignores the source.
        dtype: See :func:`~.model_files.pick_dtype`.
        device: See :func:`~.model_files.pick_device`.
        local: Rank of this process on its machine.
        batch_size: Images per batch. Rounding depends on it, so an image
            bank keeps the one that it was started with.
        threads: On CPU, threads of torch; rounding depends on it.
        variant: See :func:`load_pipeline`.
        revision: Commit or branch on the hub.
        safety_checker: See :func:`set_safety_checker`.
        single_file_config: See :func:`load_pipeline`.

    Raises:
        GenerationError: diffusers is missing, the model is not there or of
            an unknown kind, or an argument is out of its range.
    """

    keeps_labels = False

    def __init__(
        self,
        model: str,
        *,
        mode: str = 'txt2img',
        size: tuple[int, int] | int = 768,
        scheduler: str = 'auto',
        steps: int = 50,
        guidance: float = 7.5,
        negative_prompt: str = '',
        strength: float = 0.6,
        dtype: str = 'auto',
        device: str = 'auto',
        local: int = 0,
        batch_size: int = 1,
        threads: int = 1,
        variant: str | None = None,
        revision: str | None = None,
        safety_checker: str = 'default',
        single_file_config: str | None = None,
    ):
        self.model = model
        self.mode = mode
        self.size = size
        self.steps = steps
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.strength = strength
        self.batch_size = batch_size
        self.threads = threads
        self._check_arguments()
        self.device = pick_device(device, local)
        self.dtype = pick_dtype(dtype, self.device)
        loaded = load_pipeline(
            model,
            mode,
            dtype=self.dtype,
            variant=variant,
            revision=revision,
            single_file_config=single_file_config,
        )
        self.name, self.fingerprint = loaded.name, loaded.fingerprint
        self.variant = loaded.variant
        self.pipe = loaded.pipe.to(self.device)
        if negative_prompt and 'negative_prompt' not in (
            inspect.signature(self.pipe.__call__).parameters
        ):
            raise GenerationError(
                f'--negative-prompt: {type(self.pipe).__name__} takes none'
            )
        self.scheduler = set_scheduler(self.pipe, scheduler, self.name)
        self.checks_safety = set_safety_checker(
            self.pipe, safety_checker, self.name
        )
        self._check_size()

    def _check_arguments(self):
        rules = (
            (self.mode in ('txt2img', 'img2img'), '--mode', self.mode,
             'txt2img or img2img'),
            (self.steps >= 1, '--steps', self.steps, '1 or more'),
            (self.guidance >= 0, '--guidance', self.guidance, '0 or more'),
            (self.batch_size >= 1, '--batch-size', self.batch_size,
             '1 or more'),
            (self.threads >= 1, '--threads', self.threads, '1 or more'),
            (0 < self.strength <= 1, '--strength', self.strength,
             'in (0, 1]'),
        )  # fmt: skip
        for fine, name, value, rule in rules:
            if not fine:
                raise GenerationError(f'{name} must be {rule}, got {value!r}')
        if self.mode == 'img2img' and int(self.steps * self.strength) < 1:
            raise GenerationError(
                f'--steps {self.steps} times --strength {self.strength} is '
                'less than one step: nothing would change. Raise one of them.'
            )

    def _check_size(self):
        self.multiple = max(getattr(self.pipe, 'vae_scale_factor', 8), 8)
        if self.mode == 'txt2img' and isinstance(self.size, int):
            self.size = (self.size, self.size)
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if any(s < self.multiple or s % self.multiple for s in sides):
            raise GenerationError(
                f'--size {"x".join(map(str, sides))}: {self.name} needs '
                f'multiples of {self.multiple}'
            )

    def recipe(self) -> dict:
        """Return what the images depend on besides prompt, seed, source."""
        recipe = dict(
            backend='diffusers',
            model=self.name,
            fingerprint=self.fingerprint,
            mode=self.mode,
            size=self.size,
            scheduler=self.scheduler,
            steps=self.steps,
            guidance=self.guidance,
            negative_prompt=self.negative_prompt,
            dtype=str(self.dtype).removeprefix('torch.'),
            batch_size=self.batch_size,
            variant=self.variant,
            safety_checker=self.checks_safety,
        )
        if self.mode == 'img2img':
            recipe['strength'] = self.strength
        if self.device.type == 'cpu':
            recipe['threads'] = self.threads
        return recipe

    def info(self) -> dict:
        """Return versions, device and origin of the model."""
        device = str(self.device)
        if self.device.type == 'cuda':
            device += f' ({torch.cuda.get_device_name(self.device)})'
        return dict(
            model=self.model,
            pipeline=type(self.pipe).__name__,
            device=device,
            torch=torch.__version__,
            diffusers=metadata.version('diffusers'),
            transformers=metadata.version('transformers'),
        )

    def check_prompts(self, prompts: Sequence[tuple[int, str]]) -> list[str]:
        """Find the prompts that a text encoder truncates.

        Args:
            prompts: Line and text of each.

        Returns:
            A sentence for each line and tokenizer.
        """
        return find_truncations(self.pipe, self.name, prompts)

    def generate(self, requests: Sequence[Request]) -> list[GeneratedImage]:
        """Generate one image for each of B requests, float in [0, 1].

        Raises:
            GenerationError: The device runs out of memory, or a source image
                cannot be read.
        """
        if self.mode == 'txt2img':
            width, height = self.size
            generated = self._run(requests, width=width, height=height)
            self._check_output_size(generated, requests, self.size)
            return generated
        sources = [
            open_source(r.source_path)  # type: ignore[arg-type]
            for r in requests
        ]
        sizes = [working_size(s.size, self.size, self.multiple)
                 for s in sources]  # fmt: skip
        images: dict[int, GeneratedImage] = {}
        # A pipeline takes images of one size. The groups depend on the batch
        # alone, which is always the same.
        for size in dict.fromkeys(sizes):
            indices = [i for i, other in enumerate(sizes) if other == size]
            group = [requests[i] for i in indices]
            inputs = [sources[i].resize(size, Image.LANCZOS) for i in indices]
            generated = self._run(group, image=inputs, strength=self.strength)
            self._check_output_size(generated, group, size)
            for i, one in zip(indices, generated, strict=True):
                images[i] = _resize_to_source(one, sources[i].size)
        return [images[i] for i in range(len(requests))]

    def _run(self, requests, **options):
        options.update(
            prompt=[r.prompt for r in requests],
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[
                torch.Generator('cpu').manual_seed(r.seed) for r in requests
            ],
            output_type='np',
        )
        if self.negative_prompt:
            options['negative_prompt'] = [self.negative_prompt] * len(requests)
        try:
            with self._reproducible():
                output = self.pipe(**options)
        except torch.OutOfMemoryError as error:
            raise GenerationError(
                f'{self.device} runs out of memory with --batch-size '
                f'{self.batch_size} and --size {self.size}: make one of them '
                'smaller (and begin another bank: rounding depends on them)'
            ) from error
        # None where the model has no safety checker.
        unsafe = getattr(output, 'nsfw_content_detected', None)
        unsafe = unsafe or [False] * len(requests)
        return [
            GeneratedImage(np.asarray(image), unsafe=bool(flag))  # (H, W, 3)
            for image, flag in zip(output.images, unsafe, strict=True)
        ]

    def _check_output_size(self, images, requests, size):
        """Refuse images of another size than requested."""
        for one, request in zip(images, requests, strict=True):
            found = one.image.shape[1::-1]
            if found != tuple(size):
                raise GenerationError(
                    f'image {request.index} (prompt line {request.line}) came '
                    f'out {found[0]}x{found[1]}, asked for was '
                    f'{size[0]}x{size[1]}: {self.name} makes images of other '
                    'sizes only. Change --size.'
                )

    @contextmanager
    def _reproducible(self):
        """Fix threads and cuDNN algorithms, on which rounding depends."""
        threads = torch.get_num_threads()
        if self.device.type == 'cpu':
            torch.set_num_threads(self.threads)
        try:
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True
            ):
                yield
        finally:
            torch.set_num_threads(threads)


def _resize_to_source(picture, size):
    """Resize an image to (width, height) of its source."""
    image = picture.image
    if image.shape[1::-1] == size or not np.isfinite(image).all():
        return picture
    image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    resized = Image.fromarray(image).resize(size, Image.LANCZOS)
    return GeneratedImage(np.asarray(resized), unsafe=picture.unsafe)


class LoadedPipeline(NamedTuple):
    """A loaded pipeline and its identity.

    Attributes:
        pipe: The pipeline of diffusers, on the CPU.
        name: Name of its folder, or its id.
        fingerprint: Hash of its files, or its commit on the hub.
        variant: Of the weight files that were loaded.
    """

    pipe: Any
    name: str
    fingerprint: str
    variant: str | None


def load_pipeline(
    model: str,
    mode: str,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
    revision: str | None = None,
    single_file_config: str | None = None,
) -> LoadedPipeline:
    """Load a pipeline of diffusers.

    Args:
        model: Folder that ``save_pretrained`` wrote, a checkpoint in one
            file (``.safetensors``, ``.ckpt``), or an id on the Hugging Face
            hub.
        mode: ``'txt2img'`` or ``'img2img'``.
        dtype: Of the weights.
        variant: Of the weight files, such as ``'fp16'``. By default the
            files without variant, or where a part has none, the only variant
            of it.
        revision: Commit or branch on the hub.
        single_file_config: For a checkpoint in one file: the folder of a
            pipeline of that kind, which provides configs and tokenizer. By
            default that of the original model, where it is in the pretrained
            folder or the hub's cache.

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
        with _require_all_weights():
            pipe = loader.from_pretrained(
                str(folder), dtype=dtype, variant=variant
            )
    except Exception as error:
        raise GenerationError(
            f'--model {model} cannot be loaded for {mode} '
            f'({type(error).__name__}: {error})'
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return LoadedPipeline(pipe, name, mark, variant)


def _load_file(model, mode, dtype, config):
    """Load a checkpoint that has all parts of a pipeline in one file."""
    import diffusers

    path = Path(model).expanduser()
    folder = _config_folder(path, config)
    try:
        # diffusers reads pickles with weights_only: no code is executed.
        index = diffusers.DiffusionPipeline.load_config(str(folder))
        kind = getattr(diffusers, index['_class_name'])
        with _require_all_weights():
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
    return LoadedPipeline(pipe, path.name, mark, None)


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


@contextmanager
def _require_all_weights() -> Iterator[None]:
    """Turn the warning about randomly initialised weights into an error.

    diffusers and transformers initialise weights that a file lacks and
    continue; such a model generates noise.
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
        scheduler = DEFAULT_SCHEDULER
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
            # The last token is the end token.
            lost = tokenizer.decode(ids[limit - 1 :], skip_special_tokens=True)
            if len(lost) > _QUOTED:
                lost = lost[:_QUOTED] + '...'
            found.append(
                f'line {line} has {len(ids)} tokens, {key} of {name} reads '
                f'{limit}: lost is {lost!r}'
            )
    return found
