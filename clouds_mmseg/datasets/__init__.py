"""Datasets of the benchmarks and the steps of their pipelines."""

from clouds_mmseg.datasets.acdc import ACDCDataset
from clouds_mmseg.datasets.base import DGDataset
from clouds_mmseg.datasets.bdd100k import BDD100KDGDataset
from clouds_mmseg.datasets.cityscapes import CityscapesDGDataset
from clouds_mmseg.datasets.concat import DGConcatDataset
from clouds_mmseg.datasets.corrupted import CorruptedDataset
from clouds_mmseg.datasets.dark_zurich import DarkZurichDGDataset
from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.foggy_zurich import FoggyZurichDataset
from clouds_mmseg.datasets.folder import FolderDataset
from clouds_mmseg.datasets.generated import GeneratedDataset
from clouds_mmseg.datasets.gta5 import GTA5Dataset
from clouds_mmseg.datasets.keyed import KeyedDataset
from clouds_mmseg.datasets.keyed_sampler import KeyedSampler
from clouds_mmseg.datasets.mapillary import MapillaryDGDataset
from clouds_mmseg.datasets.nighttime_driving import NighttimeDrivingDataset
from clouds_mmseg.datasets.rare_class_dataset import RareClassDataset
from clouds_mmseg.datasets.synthia import SYNTHIADataset
from clouds_mmseg.datasets.transforms import (
    CorruptImage,
    DiffusionAugment,
    EvaluateAtInputSize,
    KeepCleanView,
    LoadSegImage,
    LoadSegLabels,
    PackDGInputs,
)
from clouds_mmseg.datasets.urbansyn import UrbanSynDataset
from clouds_mmseg.datasets.wilddash2 import WildDash2Dataset

__all__ = [
    'ACDCDataset',
    'BDD100KDGDataset',
    'CityscapesDGDataset',
    'CorruptImage',
    'CorruptedDataset',
    'DGConcatDataset',
    'DGDataset',
    'DarkZurichDGDataset',
    'DataError',
    'DiffusionAugment',
    'EvaluateAtInputSize',
    'FoggyZurichDataset',
    'FolderDataset',
    'GTA5Dataset',
    'GeneratedDataset',
    'KeepCleanView',
    'KeyedDataset',
    'KeyedSampler',
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
