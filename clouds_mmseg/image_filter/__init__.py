"""Filtering of generated image sets: which images and pixels are used."""

from clouds_mmseg.image_filter.filter_bank import (
    FilterSummary,
    filter_bank,
    refuse_store,
    undo_filter,
)
from clouds_mmseg.image_filter.rules import FilterRule

__all__ = [
    'FilterRule',
    'FilterSummary',
    'filter_bank',
    'refuse_store',
    'undo_filter',
]
