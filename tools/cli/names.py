"""Names that the tools take, spelled out: ``--help`` lists them.

The tables behind the names are in ``clouds_mmseg``; that both agree is
tested.
"""

from importlib.util import find_spec

# Sets that tools/prepare_dataset.py makes of the official downloads.
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
)
# Sets that tools/verify_dataset.py knows without a config.
VERIFIED_SETS = (*PREPARED_SETS, 'toycity')
RECODES = ('bmp', 'webp')
IMAGE_BACKENDS = ('toycity', 'diffusers')
CHECKPOINT_KINDS = ('clouds', 'fcclip', 'mask2former', 'mmseg')
ABLATION_ROWS = (
    'source',
    'self_training',
    'refinement',
    'restyling',
    'all',
)
BENCHMARK_SETS = (
    'gta5',
    'synthia',
    'cityscapes',
    'bdd100k',
    'mapillary',
    'acdc',
    'generated',
)
BENCHMARK_SAMS = ('vit_t', 'vit_b')
BENCHMARK_CLOCKS = ('wall', 'cpu')
BENCHMARK_DTYPES = ('fp32', 'bf16')


def benchmark_storages() -> tuple[str, ...]:
    """Return the image formats that ``benchmark.py loader`` compares.

    Returns:
        JPEG XL is among them where a decoder is installed.
    """
    jxl = ('jxl',) if find_spec('pillow_jxl') else ()
    return ('png-fast', *RECODES, 'npy', *jxl)
