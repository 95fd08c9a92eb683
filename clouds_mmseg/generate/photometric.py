"""Restyling of photographs without a model: light, weather, lens, sensor.

Each image gets one style of a list in turn, with values that are drawn from
the seed of the image. The manifest says which, and the values.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clouds_mmseg.generate.backends import (
    GeneratedImage,
    Request,
    hash_sources,
    list_sources,
    open_source,
)
from clouds_mmseg.generate.photo_effects import (
    apply_style,
    colour_transfer,
    fourier_transfer,
)
from clouds_mmseg.utils.errors import GenerationError

# Of every style, unless it has its own.
_CAMERA = {
    'contrast': (0.85, 1.15),
    'saturation': (0.75, 1.2),
    'temperature': (-0.35, 0.35),
    'noise': (0.0, 0.6),
    'blur': (0.0, 1.0),
    'vignette': (0.0, 0.35),
    'jpeg': (0.0, 0.7),
}
# Style -> values of apply_style and the range that each is drawn from.
STYLES: dict[str, dict[str, tuple[float, float]]] = {
    'sun': {
        'exposure': (-0.1, 0.4),
        'temperature': (0.1, 0.7),
        'contrast': (1.05, 1.3),
        'saturation': (0.95, 1.3),
        'veil': (0.0, 0.6),
    },
    'overcast': {
        'exposure': (-0.4, 0.1),
        'temperature': (-0.6, 0.0),
        'lift': (0.5, 1.0),
        'saturation': (0.45, 0.8),
        'contrast': (0.75, 0.95),
    },
    'sunset': {
        'sunset': (0.5, 1.0),
        'dark': (0.08, 0.25),
        'exposure': (-0.1, 0.4),
        'veil': (0.0, 0.5),
    },
    'dusk': {
        'dark': (0.28, 0.55),
        'sunset': (0.0, 0.8),
        'exposure': (0.3, 0.9),
        'temperature': (-0.6, 0.1),
        'noise': (0.3, 1.6),
        'blur': (0.2, 1.6),
    },
    'night': {
        'dark': (0.62, 0.85),
        'exposure': (1.0, 1.8),
        'temperature': (-0.3, 0.6),
        'noise': (0.5, 2.0),
        'blur': (0.2, 1.8),
    },
    'fog': {
        'fog': (40.0, 160.0),
        'lift': (0.4, 0.9),
        'saturation': (0.6, 0.95),
        'exposure': (-0.4, 0.2),
    },
    'foggy dusk': {
        'fog': (60.0, 200.0),
        'dark': (0.2, 0.5),
        'exposure': (0.2, 0.8),
        'noise': (0.2, 1.4),
    },
    'rain': {
        'rain': (0.4, 1.0),
        'wet': (0.4, 0.9),
        'lift': (0.6, 1.0),
        'fog': (150.0, 500.0),
        'temperature': (-0.6, 0.0),
        'saturation': (0.55, 0.9),
        'exposure': (-0.6, 0.0),
        'blur': (0.2, 2.0),
    },
    'rainy night': {
        'rain': (0.3, 0.9),
        'wet': (0.5, 0.9),
        'dark': (0.5, 0.75),
        'exposure': (0.8, 1.5),
        'noise': (0.4, 1.8),
    },
    'camera': {
        'exposure': (-0.9, 0.9),
        'contrast': (0.7, 1.35),
        'saturation': (0.3, 1.4),
        'temperature': (-0.8, 0.8),
        'noise': (0.0, 2.0),
        'blur': (0.0, 2.5),
        'motion': (0.0, 7.0),
        'jpeg': (0.0, 1.0),
    },
}
# Styles that need images of the user's.
REFERENCE_STYLES = {
    # Width of the window in the spectrum; a wider one leaves halos.
    'fourier': {'reach': (0.001, 0.006)},
    'colours': {'share': (0.5, 1.0)},
}
_PROBE_SIZE = (48, 64)


class PhotometricBackend:
    """Backend that restyles photographs by operations on pixels.

    Prompts play no role: the images of a source get the styles in turn.
    Nothing is moved, so that the label of the source stays valid.

    Args:
        mode: ``'img2img'``.
        styles: Of :data:`STYLES`, and with ``reference`` also ``'fourier'``
            (low frequencies' amplitude, FDA) and ``'colours'`` (mean and
            spread, Reinhard). By default all that are possible.
        reference: Folder of images whose colours those two styles take.
            Images of a target domain are no longer unseen after that.

    Raises:
        GenerationError: Another mode, an unknown style, or one that needs
            ``reference``.
    """

    batch_size = 1
    keeps_labels = False

    def __init__(
        self,
        *,
        mode: str = 'img2img',
        styles: Sequence[str] | None = None,
        reference: str | Path | None = None,
    ):
        if mode != 'img2img':
            raise GenerationError(
                '--backend photometric changes images: use --mode img2img '
                f'with --source FOLDER, got --mode {mode}'
            )
        self.mode = mode
        self.references = list_sources(reference) if reference else []
        self.reference = reference
        known = [*STYLES, *(REFERENCE_STYLES if reference else ())]
        self.styles = list(dict.fromkeys(styles or known))
        for name in self.styles:
            if name in REFERENCE_STYLES and not reference:
                raise GenerationError(
                    f'the style {name!r} takes colours of other images: '
                    'name their folder with --reference'
                )
            if name not in known:
                raise GenerationError(
                    f'--styles: there is no style {name!r}; there are '
                    + ', '.join([*STYLES, *REFERENCE_STYLES])
                )

    def recipe(self) -> dict:
        """Return what the images depend on besides style, seed, source."""
        recipe = dict(
            backend='photometric',
            model='photometric',
            fingerprint=self._fingerprint(),
            mode=self.mode,
        )
        if self.references:
            recipe['references_digest'] = hash_sources(self.references)
        return recipe

    def info(self) -> dict:
        """Return a note about the origin of the images."""
        info = dict(
            note='restyled by operations on pixels, without a model; styles: '
            + ', '.join(self.styles)
        )
        if self.references:
            info['reference_root'] = str(self.reference)
        return info

    def check_prompts(self, prompts: Sequence[tuple[int, str]]) -> list[str]:
        """Return no warnings: prompts are the names of styles."""
        return []

    def generate(self, requests: Sequence[Request]) -> list[GeneratedImage]:
        """Restyle the sources, (H, W, 3) uint8, one by one."""
        return [self._restyle(request) for request in requests]

    def _restyle(self, request):
        source = np.asarray(open_source(request.source_path))
        rng = np.random.default_rng(request.seed)
        name = request.prompt
        values = draw_style(name, rng)
        if name in REFERENCE_STYLES:
            which = int(rng.integers(len(self.references)))
            file, path = self.references[which]
            other = np.asarray(open_source(path))
            if name == 'fourier':
                image = fourier_transfer(source, other, values['reach'])
            else:
                image = colour_transfer(source, other, values['share'])
            return GeneratedImage(image, style=dict(values, reference=file))
        return GeneratedImage(apply_style(source, values, rng), style=values)

    def _fingerprint(self):
        """Hash small sample images, which change with the operations."""
        sha256 = hashlib.sha256()
        for number, name in enumerate(STYLES):
            rng = np.random.default_rng(number)
            source = rng.integers(0, 256, (*_PROBE_SIZE, 3), np.uint8)
            image = apply_style(source, draw_style(name, rng), rng)
            sha256.update(image.tobytes())
        sha256.update(fourier_transfer(image, source, 0.01).tobytes())
        sha256.update(colour_transfer(image, source, 0.7).tobytes())
        sha256.update(repr(REFERENCE_STYLES).encode())
        return sha256.hexdigest()[:16]


def draw_style(name: str, rng: np.random.Generator) -> dict[str, float]:
    """Draw the values of a style.

    Args:
        name: Of :data:`STYLES` or :data:`REFERENCE_STYLES`.
        rng: Random generator.

    Returns:
        Values by name, as :func:`apply_style` takes them.
    """
    ranges = REFERENCE_STYLES.get(name) or {**_CAMERA, **STYLES[name]}
    return {
        key: round(float(rng.uniform(*span)), 4)
        for key, span in ranges.items()
    }
