"""SAM of its original packages: weights, embedding of images, masks."""

import logging
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from clouds_mmseg.refine.prompted_model import PromptedModel
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_file
from clouds_mmseg.weights.io import read_state_dict
from clouds_mmseg.weights.load import load_strictly
from clouds_mmseg.weights.locate import (
    find_or_fetch,
    find_pretrained,
    missing_error,
)

_OFFICIAL = 'https://dl.fbaipublicfiles.com/segment_anything/'
# Variant -> URL of the weights that its authors publish.
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
# Names in transformers' SamModel -> names in segment-anything's Sam.
_RENAMED = [
    (re.compile(pattern), new)
    for pattern, new in [
        (
            r'^shared_image_embedding\.positional_embedding$',
            'prompt_encoder.pe_layer.positional_encoding_gaussian_matrix',
        ),
        (
            r'^vision_encoder\.patch_embed\.projection\.',
            'image_encoder.patch_embed.proj.',
        ),
        (
            r'^vision_encoder\.layers\.(\d+)\.layer_norm(\d)\.',
            r'image_encoder.blocks.\1.norm\2.',
        ),
        (r'^vision_encoder\.layers\.', 'image_encoder.blocks.'),
        (r'^vision_encoder\.neck\.conv1\.', 'image_encoder.neck.0.'),
        (r'^vision_encoder\.neck\.layer_norm1\.', 'image_encoder.neck.1.'),
        (r'^vision_encoder\.neck\.conv2\.', 'image_encoder.neck.2.'),
        (r'^vision_encoder\.neck\.layer_norm2\.', 'image_encoder.neck.3.'),
        (r'^vision_encoder\.', 'image_encoder.'),
        (
            r'^prompt_encoder\.point_embed\.',
            'prompt_encoder.point_embeddings.',
        ),
        (
            r'^prompt_encoder\.mask_embed\.conv1\.',
            'prompt_encoder.mask_downscaling.0.',
        ),
        (
            r'^prompt_encoder\.mask_embed\.layer_norm1\.',
            'prompt_encoder.mask_downscaling.1.',
        ),
        (
            r'^prompt_encoder\.mask_embed\.conv2\.',
            'prompt_encoder.mask_downscaling.3.',
        ),
        (
            r'^prompt_encoder\.mask_embed\.layer_norm2\.',
            'prompt_encoder.mask_downscaling.4.',
        ),
        (
            r'^prompt_encoder\.mask_embed\.conv3\.',
            'prompt_encoder.mask_downscaling.6.',
        ),
        (
            r'^(mask_decoder\.transformer\..*)layer_norm(\d|_final_attn)\.',
            r'\1norm\2.',
        ),
        (
            r'^mask_decoder\.upscale_conv1\.',
            'mask_decoder.output_upscaling.0.',
        ),
        (
            r'^mask_decoder\.upscale_layer_norm\.',
            'mask_decoder.output_upscaling.1.',
        ),
        (
            r'^mask_decoder\.upscale_conv2\.',
            'mask_decoder.output_upscaling.3.',
        ),
    ]
]
# A layer of one of the decoder's MLPs, by transformers' names.
_MLP = re.compile(
    r'^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))'
    r'\.(?:(proj_in)|(proj_out)|layers\.(\d+))\.(weight|bias)$'
)
# A second copy of the positional embedding.
_TIED = 'prompt_encoder.shared_embedding.positional_embedding'
# Prefix of a weight's name -> other model of the SAM family that has it.
_OTHER_MODELS = {
    'image_encoder.trunk.': 'SAM 2',
    'sam_mask_decoder.': 'SAM 2',
    'memory_attention.': 'SAM 2',
    'vision_encoder.backbone.': "SAM 2 in transformers' layout",
    'detector.': 'SAM 3',
    'mask_decoder.hf_token.': 'SAM-HQ',
    'image_encoder.stages.': 'EdgeSAM or another small SAM',
    'image_encoder.backbone.': 'EfficientSAM or another small SAM',
}
# Width of the positional embedding -> variant, for the error message.
_WIDTHS = {768: 'vit_b', 1024: 'vit_l', 1280: 'vit_h'}


class PromptedSAM(PromptedModel):
    """A frozen SAM of the original packages.

    Args:
        variant: ``vit_b``, ``vit_l``, ``vit_h`` of segment-anything, or
            ``vit_t`` of MobileSAM.
        checkpoint: Path or URL of its weights.

    Raises:
        UserError: If the package is not installed, or the weights cannot be
            found or downloaded.
        WeightFileError: If they cannot be read.
        CheckpointMismatchError: If they are of another variant.
    """

    def __init__(self, variant: str, checkpoint: str | Path):
        # A missing package is reported before gigabytes are downloaded.
        sam_module(variant)
        path = find_weights(checkpoint, variant)
        self.model = build_sam(variant, path)
        transforms = sam_module(variant).SamPredictor(self.model).transform
        self.transform = transforms
        self.identity = f'{variant}-{hash_file(path)}'

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    def to(self, device: str | torch.device) -> None:
        """Move the weights to a device."""
        self.model.to(device)
        # MobileSAM's attention caches a tensor that is neither a parameter
        # nor a buffer; eval() recomputes it on the new device.
        self.model.eval()

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> Tensor:
        """Run the image encoder.

        Args:
            image: (H, W, 3) uint8 RGB; resized here so that its long side is
                SAM's input size, then padded to a square.

        Returns:
            (1, C, h, w) float32 on the device.
        """
        resized = self.transform.apply_image(image)
        tensor = torch.as_tensor(resized, device=self.device)
        tensor = tensor.permute(2, 0, 1)[None].contiguous()  # (1, 3, H', W')
        # The caller may be training under autocast; the embedding must not
        # depend on that, because it is cached.
        with torch.autocast(self.device.type, enabled=False):
            return self.model.image_encoder(self.model.preprocess(tensor))

    @torch.no_grad()
    def decode(
        self,
        embedding: Tensor,
        prompts: np.ndarray,
        size: tuple[int, int],
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`~.prompted_model.PromptedModel.decode`."""
        model = self.model
        coords = torch.as_tensor(
            self.transform.apply_coords(prompts, size),
            dtype=torch.float32,
            device=self.device,
        )
        labels = torch.ones(coords.shape[:2], device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            sparse, dense = model.prompt_encoder(
                points=(coords, labels),
                boxes=None,
                masks=None if mask_input is None else mask_input[:, None],
            )
            return model.mask_decoder(
                image_embeddings=embedding.float(),
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )  # (N, 3, S, T), (N, 3)

    @torch.no_grad()
    def upscale(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`~.prompted_model.PromptedModel.upscale`."""
        with torch.autocast(self.device.type, enabled=False):
            return self.model.postprocess_masks(
                logits[:, None], self._input_size(size), size
            )[:, 0]

    def _input_size(self, size):
        """Height and width of the image after resizing, before padding."""
        return self.transform.get_preprocess_shape(
            *size, self.transform.target_length
        )


def sam_module(variant: str) -> ModuleType:
    """Import the package that implements a variant.

    Args:
        variant: ``vit_t`` for MobileSAM, else segment-anything's.

    Returns:
        ``mobile_sam`` or ``segment_anything``.

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


def find_weights(
    checkpoint: str | Path | None, variant: str | None, *, fetch: bool = True
) -> Path:
    """Return a local file of weights, downloaded first if it is a URL.

    Args:
        checkpoint: A path; if there is no such file, its name is looked up in
            the pretrained folder (``--pretrained-dir``). Or a URL
            (``https://...``), whose file name is looked up there first; a
            downloaded file is kept in ``hub/checkpoints`` of torch's cache
            folder and not downloaded again.
        variant: For the message.
        fetch: False searches without downloading.

    Returns:
        An existing file.

    Raises:
        UserError: If no file is named.
        MissingWeightsError: If it is not found and cannot be downloaded.
    """
    source = PUBLISHED.get(variant or '', 'the authors of that variant')
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


def build_sam(variant: str, path: Path) -> nn.Module:
    """Build a SAM in eval mode, frozen, with the weights of a file.

    Weights in the layout of transformers' ``SamModel`` are renamed.

    Args:
        variant: A name in the registry of its package.
        path: The weights.

    Returns:
        ``Sam`` of the package, on the CPU, float32.

    Raises:
        UserError: See :func:`sam_module`.
        WeightFileError: If nothing can be read from the file.
        CheckpointMismatchError: If it holds another variant.
    """
    module = sam_module(variant)
    state_dict = from_transformers(read_state_dict(path))
    _refuse_other_models(state_dict, variant, path)
    # The initial values are overwritten; drawing them must not advance the
    # random state of the training.
    with torch.random.fork_rng(devices=[]):
        sam = module.sam_model_registry[variant]()
    found = _variant_of(state_dict)
    hint = f' (looks like {found})' if found not in (None, variant) else ''
    load_strictly(sam, state_dict, source=f'{path}{hint}')
    print_log(f'SAM {variant} from {path}', 'current', logging.INFO)
    # The builder called eval already, but that makes MobileSAM's attention
    # cache a tensor derived from its weights, which were random then.
    return sam.eval().requires_grad_(False)


def from_transformers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of transformers' ``SamModel``.

    Args:
        state_dict: Weights in any layout.

    Returns:
        The weights under segment-anything's names; any other layout is
        returned unchanged.
    """
    if not any(k.startswith('vision_encoder.layers.') for k in state_dict):
        return state_dict
    renamed = {}
    # Layers between the first and the last of an MLP.
    inner = {}
    for key in state_dict:
        if (match := _MLP.match(key)) and match[4]:
            inner[match[1]] = max(inner.get(match[1], 0), int(match[4]) + 1)
    for key, value in state_dict.items():
        if key == _TIED:
            continue
        if match := _MLP.match(key):
            last = inner.get(match[1], 0) + 1
            index = 0 if match[2] else last
            if match[4]:
                index = int(match[4]) + 1
            key = f'{match[1]}.layers.{index}.{match[5]}'
        for pattern, new in _RENAMED:
            key, found = pattern.subn(new, key)
            if found:
                break
        renamed[key] = value
    if _TIED in state_dict:
        # Files may have either copy.
        renamed.setdefault(_RENAMED[0][1], state_dict[_TIED])
    return renamed


def _refuse_other_models(state_dict, variant, path):
    """Raise an error for weights of another model of the SAM family."""
    found = next(
        (
            title
            for start, title in _OTHER_MODELS.items()
            if any(key.startswith(start) for key in state_dict)
        ),
        None,
    )
    if found:
        raise UserError(
            f'SAMRefiner(variant={variant!r}): {path} holds the weights of '
            f'{found}; read are those of SAM (vit_b, vit_l, vit_h), also in '
            f"transformers' layout, and of MobileSAM (vit_t), published at "
            f'{PUBLISHED.get(variant, PUBLISHED["vit_b"])}'
        )


def _variant_of(state_dict):
    """Return the variant whose weights these are, None if unclear."""
    if any(k.startswith('image_encoder.layers.') for k in state_dict):
        return 'vit_t'
    embedding = state_dict.get('image_encoder.pos_embed')
    if embedding is None:
        return None
    return _WIDTHS.get(embedding.shape[-1])
