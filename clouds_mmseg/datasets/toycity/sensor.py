"""Lens, exposure and noise of the camera."""

import cv2
import numpy as np


def expose(image, style, rng):
    """What a style's camera makes of the light.

    Args:
        image (np.ndarray): Light (H, W, 3) float32, 1 being white.
        style (Style): Whose lens and sensor.
        rng (numpy.random.Generator): Source of noise and of the choices.

    Returns:
        np.ndarray: Colours (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    blur = rng.uniform(*style.blur) * width / 1000
    if blur > 0.05:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    saturation = np.float32(rng.uniform(*style.saturation))
    contrast = np.float32(rng.uniform(*style.contrast))
    gain = np.array(style.white, np.float32) * rng.uniform(*style.exposure)
    if saturation != 1:
        grey = image.mean(-1, keepdims=True)
        image = grey + (image - grey) * saturation
    image = image * gain.astype(np.float32)
    if contrast != 1:
        image = (image - np.float32(0.5)) * contrast + np.float32(0.5)
    if style.vignette:
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)
        image = image * (1 - style.vignette / 2 * (x * x + y * y))[..., None]
    deviation = np.float32(rng.uniform(*style.noise) / 255)
    if deviation:
        # Part of the noise is common to the channels, as raw sensors' is.
        grain = rng.standard_normal((height, width, 4), np.float32)
        grain *= deviation
        image = image + 0.8 * grain[..., 3:] + 0.6 * grain[..., :3]
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
