"""Images from a diffusion model.

Shape letters: B requests of a batch, H and W pixels.
"""

import inspect
from contextlib import contextmanager
from importlib import metadata

import numpy as np
import torch
from PIL import Image

from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.generate.model_files import pick_device, pick_dtype
from clouds_mmseg.generate.pipeline import (
    load_pipeline,
    set_safety_checker,
    set_scheduler,
    truncations,
)
from clouds_mmseg.generate.request import Picture
from clouds_mmseg.generate.source_image import open_source, working_size


class DiffusionBackend:
    """A text-to-image or image-to-image pipeline of diffusers.

    Any pipeline that diffusers' ``AutoPipeline`` classes load will do:
    Stable Diffusion 1.x, 2.x, XL and later ones. The noise of an image comes
    from a CPU generator of its own, so that it does not depend on the device.

    Args:
        model (str): Folder that ``save_pretrained`` wrote, a checkpoint in
            one file, or an id on the Hugging Face hub.
        mode (str): ``'txt2img'`` or ``'img2img'``.
        size (tuple[int, int] | int): Width and height in pixels; an int is
            both of them, or in mode img2img the short edge at which the
            model sees a source image. There the result is resized to the
            source's own size, which its label has.
        scheduler (str): ``'auto'`` (Euler where the model allows it, else
            its own), ``'model'`` (its own) or a class name of diffusers.
        steps (int): Denoising steps.
        guidance (float): Scale of classifier-free guidance.
        negative_prompt (str): What the images should not show.
        strength (float): Mode img2img: share of the steps that is done, in
            (0, 1]; 1 forgets the source.
        dtype (str): See :func:`~.model_files.pick_dtype`.
        device (str): See :func:`~.model_files.pick_device`.
        local (int): Number of this process on its machine.
        batch_size (int): Images at once. Rounding depends on it, so a bank
            keeps the one that it was begun with.
        threads (int): On CPU, threads of torch; rounding depends on it.
        variant (str, optional): See :func:`~.pipeline.load_pipeline`.
        revision (str, optional): Commit or branch on the hub.
        safety_checker (str): See :func:`~.pipeline.set_safety_checker`.
        single_file_config (str, optional): See
            :func:`~.pipeline.load_pipeline`.

    Raises:
        GenerationError: diffusers is missing, the model is not there or of
            an unknown kind, or an argument is out of its range.
    """

    keeps_labels = False

    def __init__(
        self,
        model,
        *,
        mode='txt2img',
        size=768,
        scheduler='auto',
        steps=50,
        guidance=7.5,
        negative_prompt='',
        strength=0.6,
        dtype='auto',
        device='auto',
        local=0,
        batch_size=1,
        threads=1,
        variant=None,
        revision=None,
        safety_checker='default',
        single_file_config=None,
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
        self._check()
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

    def _check(self):
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

    def recipe(self):
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

    def info(self):
        """Return the versions, the device and where the model came from."""
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

    def check_prompts(self, prompts):
        """Name the lines that a text encoder cuts.

        Args:
            prompts (Sequence[tuple[int, str]]): Line and text of each.

        Returns:
            list[str]: A sentence for each line and tokenizer.
        """
        return truncations(self.pipe, self.name, prompts)

    def generate(self, requests):
        """Make the images of some requests.

        Args:
            requests (Sequence[Request]): B of them.

        Returns:
            list[Picture]: B pictures, float in [0, 1].

        Raises:
            GenerationError: The device runs out of memory, or a source image
                cannot be read.
        """
        if self.mode == 'txt2img':
            width, height = self.size
            made = self._run(requests, width=width, height=height)
            self._check_made(made, requests, self.size)
            return made
        sources = [open_source(r.source_path) for r in requests]
        sizes = [working_size(s.size, self.size, self.multiple)
                 for s in sources]  # fmt: skip
        pictures = [None] * len(requests)
        # A pipeline takes images of one size. Which ones go together follows
        # from the batch, which is always the same.
        for size in dict.fromkeys(sizes):
            at = [i for i, other in enumerate(sizes) if other == size]
            made = self._run(
                [requests[i] for i in at],
                image=[sources[i].resize(size, Image.LANCZOS) for i in at],
                strength=self.strength,
            )
            self._check_made(made, [requests[i] for i in at], size)
            for i, picture in zip(at, made, strict=True):
                pictures[i] = _restored(picture, sources[i].size)
        return pictures

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
            Picture(np.asarray(image), unsafe=bool(flag))  # (H, W, 3)
            for image, flag in zip(output.images, unsafe, strict=True)
        ]

    def _check_made(self, pictures, requests, size):
        """Refuse images of another size than was asked for."""
        for picture, request in zip(pictures, requests, strict=True):
            found = picture.image.shape[1::-1]
            if found != tuple(size):
                raise GenerationError(
                    f'image {request.index} (prompt line {request.line}) came '
                    f'out {found[0]}x{found[1]}, asked for was '
                    f'{size[0]}x{size[1]}: {self.name} makes images of other '
                    'sizes only. Change --size.'
                )

    @contextmanager
    def _reproducible(self):
        """Fix what rounding depends on, and put it back afterwards."""
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


def _restored(picture, size):
    """Resize a picture to (width, height) of its source."""
    image = picture.image
    if image.shape[1::-1] == size or not np.isfinite(image).all():
        return picture
    image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    resized = Image.fromarray(image).resize(size, Image.LANCZOS)
    return Picture(np.asarray(resized), unsafe=picture.unsafe)
