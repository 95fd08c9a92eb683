"""Choices of the tools' options, listed without importing ``clouds_mmseg``.

A test compares them with the tables in ``clouds_mmseg``.
"""

from importlib.util import find_spec

# Datasets that tools/prepare_dataset.py prepares.
PREPARED_SETS = (
    'gta5',
    'synthia',
    'urbansyn',
    'cityscapes',
    'bdd100k',
    'mapillary',
    'acdc',
    'dark_zurich',
    'nighttime_driving',
    'foggy_zurich',
    'wilddash2',
    'idd',
)
# Datasets that tools/verify_dataset.py verifies without a config.
VERIFIED_SETS = (*PREPARED_SETS, 'toycity')
RECODES = ('bmp', 'webp', 'jpg')
IMAGE_BACKENDS = ('toycity', 'diffusers', 'photometric')
IMAGE_MODES = ('txt2img', 'img2img', 'edit', 'label2img')
CONTROLS = ('segmentation', 'edges', 'depth')
PROMPT_KINDS = ('dense', 'short', 'restyle', 'edit')
# After which processes take over the work of one that is silent.
LEASE_SECONDS = 120.0
PROTOCOLS = ('clouds', 'native', 'slide', 'rein', 'soma')
CHECKPOINT_KINDS = (
    'clouds',
    'fcclip',
    'mask2former',
    'mmseg',
    'pmt',
    'eomt',
    'rein',
    'soma',
    'tqdm',
)
WRITTEN_KINDS = CHECKPOINT_KINDS[:3]
ABLATION_ROWS = (
    'source',
    'self_training',
    'refinement',
    'self_training_plus',
    'without_weights',
    'without_mixing',
    'without_refinement',
    'labelled_six',
    'labelled_mixed',
    'true_labels_source',
    'restyling',
    'all',
    'all_plus',
    'all_labelled_mixed',
    'true_labels',
)
ABLATION_SCHEDULES = ('short', 'long')
EXPORT_FORMATS = ('onnx', 'pt2', 'openvino')
EXPORT_OUTPUTS = ('labels', 'scores')
EXPORT_PRECISIONS = ('fp32', 'fp16', 'int8')
PREDICTION_KINDS = ('labels', 'color', 'overlay', 'confidence', 'rle')
REVIEW_TOOLS = ('fiftyone', 'cvat', 'labelstudio')
REVIEW_RANKS = ('expected_iou', 'confidence', 'agreement')
BENCHMARK_SETS = (
    'gta5',
    'synthia',
    'urbansyn',
    'cityscapes',
    'bdd100k',
    'mapillary',
    'acdc',
    'generated',
)
BENCHMARK_SAMS = ('vit_t', 'vit_b')
BENCHMARK_CLOCKS = ('wall', 'cpu')
FEATURE_DTYPES = ('float16', 'float32')
BENCHMARK_DTYPES = ('fp32', 'bf16')


def benchmark_image_formats() -> tuple[str, ...]:
    """Return the image formats that ``benchmark.py loader`` compares.

    Returns:
        Includes JPEG XL if a decoder is installed.
    """
    jxl = ('jxl',) if find_spec('pillow_jxl') else ()
    return ('png-fast', *RECODES, 'npy', *jxl)
