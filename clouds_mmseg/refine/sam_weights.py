"""Find, fetch and load the weights of a SAM."""

import logging
import re
from importlib import import_module
from pathlib import Path

import torch
from mmengine.logging import print_log

from clouds_mmseg.checkpoints.files import read_state_dict
from clouds_mmseg.checkpoints.strict import load_strictly
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.pretrained import (
    find_or_fetch,
    find_pretrained,
    missing_error,
)

_OFFICIAL = 'https://dl.fbaipublicfiles.com/segment_anything/'
# Variant -> where its authors publish the weights.
PUBLISHED = {
    'vit_b': _OFFICIAL + 'sam_vit_b_01ec64.pth',
    'vit_l': _OFFICIAL + 'sam_vit_l_0b3195.pth',
    'vit_h': _OFFICIAL + 'sam_vit_h_4b8939.pth',
    'vit_t': 'https://github.com/ChaoningZhang/MobileSAM/raw/master/'
    'weights/mobile_sam.pt',
}
_INSTALL = {
    'segment_anything': 'pip install "clouds_mmseg[sam]"',
    # Not on PyPI: its authors install it from the repository.
    'mobile_sam': 'pip install timm '
    'git+https://github.com/ChaoningZhang/MobileSAM.git',
}
# Width of the first position embedding -> variant, to name the mistake.
_WIDTHS = {768: 'vit_b', 1024: 'vit_l', 1280: 'vit_h'}


def sam_module(variant):
    """Import the package that a variant comes from.

    Args:
        variant (str): ``vit_t`` for MobileSAM, else segment-anything's.

    Returns:
        module: ``mobile_sam`` or ``segment_anything``.

    Raises:
        UserError: If it is not installed, or has no such variant.
    """
    name = 'mobile_sam' if variant == 'vit_t' else 'segment_anything'
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f'SAMRefiner(variant={variant!r}) needs the package {name}, '
            f'which is not installed. Run: {_INSTALL[name]}'
        ) from error
    known = [k for k in module.sam_model_registry if k != 'default']
    if variant not in known:
        raise UserError(
            f'SAMRefiner: variant must be one of {sorted({*known, "vit_t"})}'
            f', got {variant!r}.'
        )
    return module


def find_weights(checkpoint, variant, *, fetch=True):
    """Return a local file of weights, fetched first if it is an address.

    Args:
        checkpoint (str | Path): A path; where there is no such file, its
            name is looked up in the pretrained folder
            (``--pretrained-dir``). Or an address (``https://...``), whose
            file is looked up there first; a fetched file is kept in
            ``hub/checkpoints`` of torch's cache folder and not fetched
            again.
        variant (str): For the message.
        fetch (bool): False only looks.

    Returns:
        Path: An existing file.

    Raises:
        UserError: If no file is named.
        MissingWeightsError: If it is not here and cannot be fetched.
    """
    source = PUBLISHED.get(variant, 'the authors of that variant')
    what = f'SAMRefiner(variant={variant!r})'
    if not checkpoint:
        raise UserError(
            f'{what}: checkpoint must be a path or an address of weights, '
            f'got {checkpoint!r}. They are published at {source}'
        )
    if re.match(r'\w+://', str(checkpoint)):
        return find_or_fetch(str(checkpoint), what, fetch=fetch)
    path = Path(checkpoint).expanduser()
    found = path if path.is_file() else find_pretrained([path.name])
    if found is None:
        raise missing_error(
            f'{what}, checkpoint {checkpoint}',
            [path.name],
            origin=source,
            looked=[path.absolute()],
            reason='a path is not fetched; an address would be',
        )
    return found


def build_sam(variant, path):
    """Build a SAM in eval mode, frozen, with the weights of a file.

    Args:
        variant (str): A name in the registry of its package.
        path (Path): The weights.

    Returns:
        nn.Module: ``Sam`` of the package, on the CPU, float32.

    Raises:
        UserError: See :func:`sam_module`.
        WeightFileError: If nothing can be read from the file.
        CheckpointMismatchError: If it holds another variant.
    """
    module = sam_module(variant)
    state_dict = read_state_dict(path)
    # The initial values are overwritten; drawing them must not shift the
    # random numbers of the training that is being prepared.
    with torch.random.fork_rng(devices=[]):
        sam = module.sam_model_registry[variant]()
    found = _guess_variant(state_dict)
    hint = f' (looks like {found})' if found not in (None, variant) else ''
    load_strictly(sam, state_dict, source=f'{path}{hint}')
    print_log(f'SAM {variant} from {path}', 'current', logging.INFO)
    # Its builder called eval already, but MobileSAM's attention then keeps
    # what it derived from its weights: from the random ones, so far.
    return sam.eval().requires_grad_(False)


def _guess_variant(state_dict):
    """Name the variant whose weights these are, None if that is unclear."""
    if any(k.startswith('image_encoder.layers.') for k in state_dict):
        return 'vit_t'
    embedding = state_dict.get('image_encoder.pos_embed')
    if embedding is None:
        return None
    return _WIDTHS.get(embedding.shape[-1])
