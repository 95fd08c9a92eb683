"""Image generation with a diffusion model of diffusers.

:class:`DiffusionBackend` generates the images;
:mod:`~clouds_mmseg.generate.pipelines` loads the pipeline.
"""

import logging
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image

from clouds_mmseg.generate.backends import (
    GeneratedImage,
    Request,
    open_source,
    to_uint8,
    working_size,
)
from clouds_mmseg.generate.conditions import Conditioning, LabelSources
from clouds_mmseg.generate.model_files import (
    check_memory,
    pick_device,
    pick_dtype,
)
from clouds_mmseg.generate.pipeline_parts import (
    add_lora,
    check_controlnet,
    find_truncations,
    load_controlnet,
    set_safety_checker,
    set_scheduler,
)
from clouds_mmseg.generate.pipelines import (
    MODES,
    load_pipeline,
    parameters_of,
)
from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.weights.model_folder import free_memory

OFFLOADS = ('none', 'model', 'sequential')
# Option -> modes that it belongs to.
_OF_MODES = dict(
    strength=('img2img',),
    image_guidance=('edit',),
    controlnet=('label2img',),
    control_scale=('label2img',),
    control=('label2img',),
    palette=('label2img',),
    unknown_classes=('label2img',),
    ignore_border=('label2img',),
    depth_model=('label2img',),
)
_STRENGTH = 0.6
# An editing model may work at a size of its own. Beyond this relative
# difference of the aspect ratios the image is cut or padded, and labels
# would not fit.
_ASPECT = 0.02


class _Task(NamedTuple):
    """What a request needs besides its prompt.

    Attributes:
        size: Width and height at which the model works.
        final: Width and height of the result.
        image: Source or conditioning image at ``size``.
        label: (H, W) uint8, of the result.
    """

    size: tuple[int, int]
    final: tuple[int, int]
    image: Image.Image | None = None
    label: np.ndarray | None = None


class DiffusionBackend:
    """Any pipeline of diffusers that makes images from text.

    What diffusers' ``AutoPipeline`` classes load will do, and pipelines that
    edit by instruction. The modes that a model can do, and the arguments that
    it takes, follow from the signature of its class. The noise of an image
    comes from a CPU generator of its own, so that it does not depend on the
    device.

    Args:
        model: Folder that ``save_pretrained`` wrote, a checkpoint in one
            file, or an id on the Hugging Face hub.
        mode: ``'txt2img'``; ``'img2img'`` adds noise to a source image and
            removes it; ``'edit'`` changes it as the prompt says; these two
            keep its label. ``'label2img'`` makes an image from a label map.
        size: Width and height in pixels; an int is both of them, or in the
            other modes than txt2img the short edge of the model's input. In
            these the result is resized to the size of the source image or
            label map.
        scheduler: ``'model'`` (its own), ``'auto'`` (Euler, as in the
            official CLOUDS code, where the model allows it) or a class name
            of diffusers.
        steps: Denoising steps. Defaults to that of the pipeline's class.
        guidance: Scale of classifier-free guidance, or of the model's
            distilled one. Defaults to that of the pipeline's class.
        negative_prompt: What the images should not show.
        strength: Mode img2img: share of the steps that is done, in (0, 1];
            1 ignores the source. Default 0.6.
        image_guidance: Mode edit: how closely the source is followed, where
            the pipeline has such a scale (InstructPix2Pix).
        dtype: See :func:`~.model_files.pick_dtype`.
        device: See :func:`~.model_files.pick_device`.
        local: Rank of this process on its machine.
        batch_size: Images per batch. Rounding depends on it, so an image
            bank keeps the one that it was started with. 1 in mode edit:
            several images are references for one result there.
        threads: On CPU, threads of torch; rounding depends on it.
        variant: See :func:`~.pipelines.load_pipeline`.
        revision: Commit or branch on the hub.
        safety_checker: See :func:`~.pipeline_parts.set_safety_checker`.
        single_file_config: See :func:`~.pipelines.load_pipeline`.
        lora: See :func:`~.pipeline_parts.add_lora`.
        lora_scale: Default 1.
        offload: With CUDA: ``'none'``; ``'model'`` has one part at a time
            in the device's memory, ``'sequential'`` one layer.
        sources: Mode label2img: the label maps.
        controlnet: Mode label2img: folder or id of a ControlNet. None for a
            pipeline that follows an image by itself.
        control_scale: Mode label2img: weight of the ControlNet. Defaults to
            that of the pipeline's class.
        control, palette, unknown_classes, ignore_border, depth_model: Mode
            label2img, see :class:`~.conditions.Conditioning`.

    Raises:
        GenerationError: diffusers is missing, the model is not there, of an
            unknown kind, cannot do the mode or needs more memory, or an
            argument is out of its range or belongs to another mode.
    """

    keeps_labels = False

    def __init__(
        self,
        model: str,
        *,
        mode: str = 'txt2img',
        size: tuple[int, int] | int = 768,
        scheduler: str = 'model',
        steps: int | None = None,
        guidance: float | None = None,
        negative_prompt: str = '',
        strength: float | None = None,
        image_guidance: float | None = None,
        dtype: str = 'auto',
        device: str = 'auto',
        local: int = 0,
        batch_size: int = 1,
        threads: int = 1,
        variant: str | None = None,
        revision: str | None = None,
        safety_checker: str = 'default',
        single_file_config: str | None = None,
        lora: str | None = None,
        lora_scale: float | None = None,
        offload: str = 'none',
        sources: LabelSources | None = None,
        controlnet: str | None = None,
        control_scale: float | None = None,
        control: str | None = None,
        palette: str | None = None,
        unknown_classes: str | None = None,
        ignore_border: int | None = None,
        depth_model: str | None = None,
    ):
        given = locals()
        self.model = model
        self.mode = mode
        self.size = size
        self.steps = steps
        self.guidance = guidance
        self.image_guidance = image_guidance
        self.negative_prompt = negative_prompt
        self.strength = _STRENGTH if strength is None else strength
        self.control_scale = control_scale
        self.batch_size = batch_size
        self.threads = threads
        self.offload = offload
        self._check_arguments()
        check_options_of_mode(mode, given)
        if lora_scale is not None and lora is None:
            raise GenerationError(
                f'--lora-scale {lora_scale} belongs to --lora'
            )
        self.device = pick_device(device, local)
        # A wrong name is told before anything is loaded.
        pick_dtype(dtype, self.device)
        if offload != 'none' and self.device.type != 'cuda':
            raise GenerationError(
                f'--offload {offload} needs a CUDA device, got {self.device}'
            )
        self.conditioning = None
        self.added: dict[str, Any] = {}
        if mode == 'label2img':
            if sources is None:
                raise GenerationError('--mode label2img needs label maps')
            self.conditioning = Conditioning(
                sources,
                control=control or 'segmentation',
                palette=palette,
                unknown_classes=unknown_classes,
                ignore_border=ignore_border or 0,
                depth_model=depth_model,
                device=self.device,
            )
        loaded = load_pipeline(
            model,
            mode,
            dtype=dtype,
            device=self.device,
            variant=variant,
            revision=revision,
            single_file_config=single_file_config,
            load_controlnet=(
                None
                if controlnet is None
                else lambda dtype: self._controlnet(controlnet, dtype)
            ),
        )
        self.name, self.fingerprint = loaded.name, loaded.fingerprint
        self.variant, self.dtype = loaded.variant, loaded.dtype
        self.pipe = loaded.pipe
        self.taken = parameters_of(self.pipe)
        if controlnet is not None:
            check_controlnet(self.pipe, controlnet, self.name)
        if lora is not None:
            scale = 1.0 if lora_scale is None else lora_scale
            mark = add_lora(self.pipe, lora, scale, self.name)
            self.added.update(lora=mark, lora_scale=scale)
        self.scheduler = set_scheduler(self.pipe, scheduler, self.name)
        self.checks_safety = set_safety_checker(
            self.pipe, safety_checker, self.name
        )
        self._resolve()
        self._check_size()
        self._place()

    def _controlnet(self, model, dtype):
        loaded = load_controlnet(model, dtype=dtype)
        self.added.update(
            controlnet=loaded.name, controlnet_fingerprint=loaded.fingerprint
        )
        return loaded.part

    def _check_arguments(self):
        scale = self.image_guidance
        rules = (
            (self.mode in MODES, '--mode', self.mode, ', '.join(MODES)),
            (self.steps is None or self.steps >= 1, '--steps', self.steps,
             '1 or more'),
            (self.guidance is None or self.guidance >= 0, '--guidance',
             self.guidance, '0 or more'),
            (scale is None or scale >= 0, '--image-guidance', scale,
             '0 or more'),
            (self.batch_size >= 1, '--batch-size', self.batch_size,
             '1 or more'),
            (self.threads >= 1, '--threads', self.threads, '1 or more'),
            (0 < self.strength <= 1, '--strength', self.strength,
             'in (0, 1]'),
            (self.offload in OFFLOADS, '--offload', self.offload,
             ', '.join(OFFLOADS)),
        )  # fmt: skip
        for fine, name, value, rule in rules:
            if not fine:
                raise GenerationError(f'{name} must be {rule}, got {value!r}')
        if self.mode == 'edit' and self.batch_size != 1:
            raise GenerationError(
                f'--batch-size {self.batch_size}: in --mode edit it is 1, as '
                'editing models take several images as references of one'
            )

    def _resolve(self):
        """Find the pipeline's names and defaults of the options."""
        kind = type(self.pipe).__name__

        def default(name):
            found = self.taken.get(name)
            return None if found is None else found.default

        # Some have the scale of a distilled model, which may be off, and
        # beside it a true one.
        self._guided_by = None
        for name in ('guidance_scale', 'true_cfg_scale'):
            if isinstance(default(name), (int, float)):
                self._guided_by = name
                break
        for option, value, name in (
            ('--steps', self.steps, 'num_inference_steps'),
            ('--guidance', self.guidance, self._guided_by),
            ('--negative-prompt', self.negative_prompt or None,
             'negative_prompt'),
            ('--image-guidance', self.image_guidance,
             'image_guidance_scale'),
            ('--control-scale', self.control_scale,
             'controlnet_conditioning_scale'),
        ):  # fmt: skip
            if value is not None and name not in self.taken:
                raise GenerationError(f'{option} {value}: {kind} takes none')
        # Given to the call only where the user gave them.
        self._options = {
            name: value
            for name, value in (
                ('num_inference_steps', self.steps),
                (self._guided_by, self.guidance),
                ('image_guidance_scale', self.image_guidance),
                ('controlnet_conditioning_scale', self.control_scale),
            )
            if value is not None
        }
        chosen = ', '.join(
            f'{name} {default(key)}'
            for name, key, value in (
                ('steps', 'num_inference_steps', self.steps),
                ('guidance', self._guided_by, self.guidance),
            )
            if value is None and key in self.taken
        )
        if self.steps is None:
            self.steps = default('num_inference_steps')
        if self.guidance is None:
            self.guidance = default(self._guided_by)
        if self.image_guidance is None and self.mode == 'edit':
            self.image_guidance = default('image_guidance_scale')
        if self.control_scale is None and self.mode == 'label2img':
            self.control_scale = default('controlnet_conditioning_scale')
        if chosen:
            print_log(
                f'{self.name}: {chosen}, by default of {kind}. '
                + (
                    'But its model_index.json says is_distilled: give the '
                    '--steps of its model card.'
                    if self.pipe.config.get('is_distilled')
                    else 'Weights that were distilled to a few steps (Turbo, '
                    'Lightning) want those of their model card.'
                ),
                logger='current',
                level=(
                    logging.WARNING
                    if self.pipe.config.get('is_distilled')
                    and 'steps' in chosen
                    else logging.INFO
                ),
            )
        if (
            self.mode == 'img2img'
            and isinstance(self.steps, int)
            and int(self.steps * self.strength) < 1
        ):
            raise GenerationError(
                f'--steps {self.steps} times --strength {self.strength} is '
                'less than one step: nothing would change. Raise one of them.'
            )

    def _check_size(self):
        processor = getattr(self.pipe, 'image_processor', None)
        factors = [
            getattr(self.pipe, 'vae_scale_factor', 8),
            getattr(getattr(processor, 'config', None), 'vae_scale_factor', 8),
        ]
        self.multiple = max(8, *(f for f in factors if isinstance(f, int)))
        if self.mode == 'txt2img' and isinstance(self.size, int):
            self.size = (self.size, self.size)
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if any(s < self.multiple or s % self.multiple for s in sides):
            raise GenerationError(
                f'--size {"x".join(map(str, sides))}: {self.name} needs '
                f'multiples of {self.multiple}'
            )

    def _place(self):
        """Move the weights to the device, if they have room there."""
        if self.device.type != 'cuda':
            self.pipe.to(self.device)
            return
        sizes = [
            sum(t.nbytes for t in (*part.parameters(), *part.buffers()))
            for part in self.pipe.components.values()
            if isinstance(part, torch.nn.Module)
        ]
        needed = dict(none=sum(sizes), model=max(sizes), sequential=0)
        check_memory(
            self.model,
            needed[self.offload],
            self.dtype,
            self.device,
            free_memory(self.device),
            offload=self.offload,
        )
        if self.offload == 'model':
            self.pipe.enable_model_cpu_offload(device=self.device)
        elif self.offload == 'sequential':
            self.pipe.enable_sequential_cpu_offload(device=self.device)
        else:
            self.pipe.to(self.device)

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
            **self.added,
        )
        if self.mode == 'img2img':
            recipe['strength'] = self.strength
        if self.image_guidance is not None:
            recipe['image_guidance'] = self.image_guidance
        if self.control_scale is not None:
            recipe['control_scale'] = self.control_scale
        if self.conditioning is not None:
            recipe.update(self.conditioning.recipe())
        if self.device.type == 'cpu':
            recipe['threads'] = self.threads
        return recipe

    def info(self) -> dict:
        """Return versions, device and origin of the model."""
        device = str(self.device)
        if self.device.type == 'cuda':
            device += f' ({torch.cuda.get_device_name(self.device)})'
        info = dict(
            model=self.model,
            pipeline=type(self.pipe).__name__,
            device=device,
            torch=torch.__version__,
            diffusers=metadata.version('diffusers'),
            transformers=metadata.version('transformers'),
        )
        if self.offload != 'none':
            info['offload'] = self.offload
        palette = self.conditioning and self.conditioning.palette
        if palette and palette.merged():
            info['note'] = '; '.join(palette.merged())
        return info

    def check_prompts(self, prompts: Sequence[tuple[int, str]]) -> list[str]:
        """Find the prompts that a text encoder truncates.

        Args:
            prompts: Line and text of each.

        Returns:
            A sentence for each line and tokenizer.
        """
        return find_truncations(self.pipe, self.name, prompts)

    def generate(self, requests: Sequence[Request]) -> list[GeneratedImage]:
        """Generate one image for each of B requests.

        Returns:
            Float in [0, 1], or uint8 where it was resized to its source.

        Raises:
            GenerationError: The device runs out of memory, or a source image
                or label cannot be read or used.
        """
        tasks = [self._task(request) for request in requests]
        images: dict[int, GeneratedImage] = {}
        # A pipeline takes images of one size. The groups depend on the batch
        # alone, which is always the same.
        for size in dict.fromkeys(task.size for task in tasks):
            indices = [i for i, task in enumerate(tasks) if task.size == size]
            group = [requests[i] for i in indices]
            generated = self._run(
                group, size, [tasks[i].image for i in indices]
            )
            self._check_output_size(generated, group, size)
            for i, one in zip(indices, generated, strict=True):
                images[i] = _finish(one, tasks[i])
        return [images[i] for i in range(len(requests))]

    def _task(self, request):
        """Read and draw what a request needs."""
        if self.mode == 'txt2img':
            return _Task(self.size, self.size)
        label = source = None
        if self.conditioning is not None:
            label = self.conditioning.read_label(request.label_path)
            final = label.shape[1::-1]
            if request.source_path != request.label_path:
                source = open_source(request.source_path)
            if source is not None and source.size != final:
                raise GenerationError(
                    f'the label {request.label_path} is {final[0]}x'
                    f'{final[1]}, its image {request.source_path} '
                    f'{source.size[0]}x{source.size[1]} (width x height): '
                    'they must be equal'
                )
        else:
            source = open_source(request.source_path)
            final = source.size
        size = working_size(final, self.size, self.multiple)
        if self.conditioning is None:
            return _Task(size, final, source.resize(size, Image.LANCZOS))
        return _Task(
            size,
            final,
            self.conditioning.draw(label, source, size),
            self.conditioning.training_label(label),
        )

    def _run(self, requests, size, images):
        """Call the pipeline for requests of one size."""
        options = dict(
            self._options,
            prompt=[r.prompt for r in requests],
            generator=[
                torch.Generator('cpu').manual_seed(r.seed) for r in requests
            ],
            output_type='np',
        )
        if self.negative_prompt:
            options['negative_prompt'] = [self.negative_prompt] * len(requests)
        # Others take the size of their image.
        for name, value in zip(('width', 'height'), size, strict=True):
            if name in self.taken:
                options[name] = value
        if self.mode == 'edit':
            (options['image'],) = images
            (options['generator'],) = options['generator']
            # FLUX Kontext would choose another size by itself.
            if '_auto_resize' in self.taken:
                options['_auto_resize'] = False
            if 'max_area' in self.taken:
                options['max_area'] = size[0] * size[1]
        elif self.mode != 'txt2img':
            control = 'control_image' in self.taken
            options['control_image' if control else 'image'] = images
        if self.mode == 'img2img':
            options['strength'] = self.strength
        try:
            with self._reproducible():
                output = self.pipe(**options)
        except torch.OutOfMemoryError as error:
            raise GenerationError(
                f'{self.device} runs out of memory with --batch-size '
                f'{self.batch_size} and --size {self.size}: make one of them '
                'smaller (and begin another bank: rounding depends on them), '
                'or use --offload model'
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
            aspect = found[0] * size[1] / (found[1] * size[0])
            fine = found == tuple(size)
            if self.mode == 'edit':
                fine = abs(aspect - 1) <= _ASPECT
            if not fine:
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


def check_options_of_mode(mode: str, options: dict[str, Any]) -> None:
    """Refuse an option of another mode.

    Args:
        mode: One of ``MODES``.
        options: Name -> value; None was not given.

    Raises:
        GenerationError: One is given that the mode has no use for.
    """
    for name, modes in _OF_MODES.items():
        if options.get(name) is not None and mode not in modes:
            raise GenerationError(
                f'--{name.replace("_", "-")} {options[name]} belongs to '
                f'--mode {" or ".join(modes)}, got --mode {mode}'
            )


def _finish(generated, task):
    """Resize an image to its source, and add its label."""
    image = generated.image
    if image.shape[1::-1] != task.final and np.isfinite(image).all():
        resized = Image.fromarray(to_uint8(image))
        image = np.asarray(resized.resize(task.final, Image.LANCZOS))
    return replace(generated, image=image, training_label=task.label)
