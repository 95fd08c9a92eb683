"""ToyCity: a procedural street benchmark for trying every part offline."""

from clouds_mmseg.toycity.dataset import write_toycity
from clouds_mmseg.toycity.render import render_scene
from clouds_mmseg.toycity.styles import STYLES, Style

__all__ = ['STYLES', 'Style', 'render_scene', 'write_toycity']
