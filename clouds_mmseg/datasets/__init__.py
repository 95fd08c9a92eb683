"""Datasets of the benchmarks and the steps of their pipelines."""

from clouds_mmseg.datasets.base import DGConcatDataset, DGDataset
from clouds_mmseg.datasets.driving import (
    ACDCDataset,
    BDD100KDGDataset,
    CityscapesDGDataset,
    DarkZurichDGDataset,
    FoggyZurichDataset,
    GTA5Dataset,
    IDDDataset,
    MapillaryDGDataset,
    NighttimeDrivingDataset,
    SYNTHIADataset,
    UrbanSynDataset,
    WildDash2Dataset,
)
from clouds_mmseg.datasets.folder import FolderDataset
from clouds_mmseg.datasets.generated import GeneratedDataset
from clouds_mmseg.datasets.labelled_sources import LabelledSources
from clouds_mmseg.datasets.rare_classes import RareClassDataset
from clouds_mmseg.datasets.sampling import KeyedDataset, KeyedSampler
from clouds_mmseg.datasets.transforms import (
    DiffusionAugment,
    EvaluateAtInputSize,
    FastPhotoMetricDistortion,
    HalveImage,
    HalveLabels,
    KeepCleanView,
    LoadSegImage,
    LoadSegLabels,
    PackDGInputs,
)
from clouds_mmseg.utils.errors import DataError

__all__ = [
    'ACDCDataset',
    'BDD100KDGDataset',
    'CityscapesDGDataset',
    'DGConcatDataset',
    'DGDataset',
    'DarkZurichDGDataset',
    'DataError',
    'DiffusionAugment',
    'EvaluateAtInputSize',
    'FastPhotoMetricDistortion',
    'FoggyZurichDataset',
    'FolderDataset',
    'GTA5Dataset',
    'IDDDataset',
    'GeneratedDataset',
    'HalveImage',
    'HalveLabels',
    'KeepCleanView',
    'KeyedDataset',
    'KeyedSampler',
    'LabelledSources',
    'LoadSegImage',
    'LoadSegLabels',
    'MapillaryDGDataset',
    'NighttimeDrivingDataset',
    'PackDGInputs',
    'RareClassDataset',
    'SYNTHIADataset',
    'UrbanSynDataset',
    'WildDash2Dataset',
]
