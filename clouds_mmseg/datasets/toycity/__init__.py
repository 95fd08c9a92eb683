"""ToyCity: procedural street scenes in which every part can be tried."""

from clouds_mmseg.datasets.toycity.render import render_scene
from clouds_mmseg.datasets.toycity.styles import STYLES, Style
from clouds_mmseg.datasets.toycity.writer import write_toycity

__all__ = ['STYLES', 'Style', 'render_scene', 'write_toycity']
