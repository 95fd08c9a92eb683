"""Images from the embedded street renderer, where no diffusion model is."""

import hashlib

import numpy as np

from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.generate.request import Picture
from clouds_mmseg.generate.restyle import restyle
from clouds_mmseg.generate.source_image import open_source
from clouds_mmseg.generate.toycity_words import style_for

# Keeps the scenes apart from those of the benchmark, whose seeds are drawn
# from small integers too.
_SALT = 0x67656E657261
_PROBES = ('heavy rain at night in winter', 'a snowy sunset in the fog')
_PROBE_SIZE = (64, 32)


class ToyCityBackend:
    """Renders ToyCity scenes in the weather and light that a prompt names.

    What a prompt says of weather, time, season and place sets the look;
    what it says of objects is not followed: every scene has the usual
    traffic. No look is that of a target domain
    (see :mod:`~clouds_mmseg.generate.toycity_words`).

    In mode img2img the image given is restyled by operations on its pixels
    (colour, texture, haze by guessed depth, darkness, rain, snow, lens,
    noise), which move nothing, so that its label stays right.

    Args:
        render (Callable): ``(seed, style, size) -> (image, label)`` with
            ``style`` a dict of the renderer's style parameters, ``size``
            (width, height), image (H, W, 3) uint8 RGB, label (H, W) uint8.
        mode (str): ``'txt2img'`` or ``'img2img'``.
        size (tuple[int, int]): Width and height in pixels; in mode img2img
            images keep their own.
        avoid (Mapping[str, Sequence[tuple[float, float]]]): Parameter of a
            style -> ranges that the target domains use.
        keep_labels (bool): Whether to hand out the labels of the scenes, for
            measuring pseudo labels against; nothing trains on them.

    Raises:
        GenerationError: Labels are to be kept in mode img2img.
    """

    batch_size = 1

    def __init__(
        self,
        render,
        *,
        avoid,
        mode='txt2img',
        size=(256, 128),
        keep_labels=False,
    ):
        if mode not in ('txt2img', 'img2img'):
            raise GenerationError(
                f'--mode must be txt2img or img2img, got {mode!r}'
            )
        if keep_labels and mode == 'img2img':
            raise GenerationError(
                '--keep-labels is for scenes of their own; in mode img2img '
                'each image keeps the label of its source'
            )
        self.render = render
        self.avoid = avoid
        self.mode = mode
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.keeps_labels = keep_labels

    def recipe(self):
        """Return what the images depend on besides prompt, seed, source."""
        recipe = dict(
            backend='toycity',
            model='toycity',
            fingerprint=self._fingerprint(),
            mode=self.mode,
        )
        if self.mode == 'txt2img':
            recipe['size'] = self.size
        return recipe

    def info(self):
        """Say what these images are."""
        if self.mode == 'img2img':
            return dict(
                note='restyled by operations on pixels, without a diffusion '
                'model'
            )
        return dict(
            note='ToyCity scenes, without a diffusion model; weather, time, '
            'season and place follow the prompt, objects do not. Colours, '
            'camera, light, lens, noise and weather have values that no '
            'target domain uses'
        )

    def check_prompts(self, prompts):
        """Return no warnings: words that are not known are passed over."""
        return []

    def generate(self, requests):
        """Make the images, (H, W, 3) uint8, one by one."""
        return [self._one(request) for request in requests]

    def _one(self, request):
        rng = _generator(request)
        if self.mode == 'img2img':
            source = np.asarray(open_source(request.source_path))
            style = style_for(request.prompt, rng, self.avoid)
            return Picture(restyle(source, style, rng))
        return self._scene(request.prompt, rng, self.size)

    def _scene(self, prompt, rng, size):
        style = style_for(prompt, rng, self.avoid)
        image, label = self.render(int(rng.integers(2**63)), style, size)
        return Picture(image, label if self.keeps_labels else None)

    def _fingerprint(self):
        """Hash a few small images: it changes when, and only when, they do."""
        digest = hashlib.sha256()
        for number, prompt in enumerate(_PROBES):
            rng = np.random.default_rng(number)
            if self.mode == 'txt2img':
                image = self._scene(prompt, rng, _PROBE_SIZE).image
            else:
                width, height = _PROBE_SIZE
                source = rng.integers(0, 256, (height, width, 3), np.uint8)
                style = style_for(prompt, rng, self.avoid)
                image = restyle(source, style, rng)
            digest.update(image.tobytes())
        return digest.hexdigest()[:16]


def _generator(request):
    """Random numbers of an image: of its prompt and seed alone."""
    words = hashlib.sha256(request.prompt.encode()).digest()[:8]
    return np.random.default_rng(
        [_SALT, request.seed, int.from_bytes(words, 'little')]
    )
