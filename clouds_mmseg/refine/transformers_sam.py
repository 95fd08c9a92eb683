"""Models of transformers that take points or boxes, behind one interface.

Shape letters: as in :mod:`~clouds_mmseg.refine.prompted_model`.
"""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clouds_mmseg.refine.prompted_model import (
    Embedding,
    PromptedModel,
    as_parts,
)
from clouds_mmseg.refine.transformers_model import (
    DTYPES,
    encoder_precision,
    import_transformers,
    load_model,
    move_model,
    read_config,
    require_finite,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_text
from clouds_mmseg.weights.model_folder import find_model_folder, hash_folder

__all__ = ['DTYPES', 'PROMPTS', 'TransformersSAM', 'require_prompted_model']

PROMPTS = ('points', 'boxes', 'both')
# Prompt -> arguments of the model that it needs.
_ARGUMENTS = dict(
    points=['input_points'],
    boxes=['input_boxes'],
    both=['input_points', 'input_boxes'],
)
_WHAT = 'weights of PromptableRefiner'


def require_prompted_model(
    weights: str | Path | None, prompt: str = 'points', *, what: str = _WHAT
) -> None:
    """Raise an error if a model is not here, or takes no such prompts.

    Nothing is downloaded, and no weights are read.

    Args:
        weights: Folder or id on the Hugging Face hub.
        prompt: See :class:`TransformersSAM`.
        what: Argument that names the weights, for the messages.

    Raises:
        UserError: Of the family; or see
            :func:`~clouds_mmseg.weights.model_folder.find_model_folder`.
    """
    folder = find_model_folder(weights, what, fetch=False)
    # That the package is missing is told by who looks for packages.
    if importlib.util.find_spec('transformers') and prompt in PROMPTS:
        _class_of(read_config(folder, what), prompt, f'{what}={folder}')


class TransformersSAM(PromptedModel):
    """A model of transformers for masks of points or boxes.

    The family is that of the weights' config; which prompts it takes, how it
    prepares images and how it upscales masks is the library's.

    Args:
        weights: Folder or id on the Hugging Face hub.
        prompt: ``points``, ``boxes`` or ``both``: in the last two cases the
            last two points of each prompt are the corners of a box.
        dtype: See
            :func:`~clouds_mmseg.refine.transformers_model.encoder_precision`.
        what: Argument that names the weights, for the messages.

    Raises:
        UserError: transformers is missing, the weights are missing or not of
            such a model, or the memory is too small.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        prompt: str = 'points',
        dtype: str = 'float32',
        what: str = _WHAT,
    ):
        import_transformers(what.rpartition(' ')[2])
        folder = find_model_folder(weights, what)
        config = read_config(folder, what)
        kind = _class_of(config, prompt, f'{what}={folder}')
        self.processor = _image_processor(folder, what)
        self.model: Any = load_model(kind, config, folder, what)
        self.prompt = prompt
        self.dtype = dtype
        self._what = f'{what}={folder}'
        takes = inspect.signature(self.model.forward).parameters
        self._has_intermediate = 'intermediate_embeddings' in takes
        self.identity = hash_text(
            config.model_type, dtype, hash_folder(folder)
        )
        self._input_sizes: dict[tuple[int, int], tuple[int, int]] = {}

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.device

    def to(self, device: str | torch.device) -> None:
        """Move the weights to a device."""
        move_model(self.model, device, self._what)

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> Embedding:
        """See :meth:`~.prompted_model.PromptedModel.embed`."""
        pixels = self._prepare(image)['pixel_values'].to(self.device)
        with encoder_precision(self.device, self.dtype):
            found = self.model.get_image_embeddings(pixels)
        if self._has_intermediate:
            # HQ-SAM's decoder reads the first of several maps.
            found = (found[0], found[1][0])
        parts = tuple(part.float() for part in as_parts(found))
        require_finite(
            {f'the embedding by {self._what}': p for p in parts}, self.dtype
        )
        return parts if len(parts) > 1 else parts[0]

    @torch.no_grad()
    def decode(
        self,
        embedding: Embedding,
        prompts: np.ndarray,
        size: tuple[int, int],
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`~.prompted_model.PromptedModel.decode`."""
        count = len(prompts)
        options = self._embedding_options(embedding, count)
        options |= self._prompt_options(prompts, size)
        if mask_input is not None:
            options['input_masks'] = mask_input[:, None]
        with torch.autocast(self.device.type, enabled=False):
            output = self.model(multimask_output=True, **options)
        return output.pred_masks[:, 0], output.iou_scores[:, 0]

    @torch.no_grad()
    def upscale(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`~.prompted_model.PromptedModel.upscale`."""
        function = self.processor.post_process_masks
        options: dict[str, Any] = dict(original_sizes=[size], binarize=False)
        if 'reshaped_input_sizes' in inspect.signature(function).parameters:
            options['reshaped_input_sizes'] = [self._input_size(size)]
        with torch.autocast(self.device.type, enabled=False):
            return function([logits[:, None]], **options)[0][:, 0]

    def _prepare(self, image):
        return self.processor(
            images=image, input_data_format='channels_last',
            return_tensors='pt',
        )  # fmt: skip

    def _input_size(self, size):
        """Height and width of an image as the model sees it, unpadded."""
        if size not in self._input_sizes:
            prepared = self._prepare(np.zeros((*size, 3), np.uint8))
            if 'reshaped_input_sizes' in prepared:
                found = [int(x) for x in prepared['reshaped_input_sizes'][0]]
            else:
                # Not padded: width and height are stretched.
                found = prepared['pixel_values'].shape[-2:]
            self._input_sizes[size] = tuple(found)
        return self._input_sizes[size]

    def _embedding_options(self, embedding, count):
        """Arguments of the model for N copies of an embedding."""
        parts = [
            # As float32, whatever the cache holds; expanding copies nothing.
            part.float().expand(count, *part.shape[1:])
            for part in as_parts(embedding)
        ]
        if self._has_intermediate:
            return dict(
                image_embeddings=parts[0], intermediate_embeddings=parts[1:]
            )
        return dict(image_embeddings=parts if len(parts) > 1 else parts[0])

    def _prompt_options(self, prompts, size):
        """Arguments of the model for prompts (N, P, 2) in pixels."""
        height, width = self._input_size(size)
        scale = np.array([width / size[1], height / size[0]])
        coords = torch.as_tensor(
            (prompts.astype(np.float64) * scale).astype(np.float32),
            device=self.device,
        )
        options = {}
        if self.prompt != 'points':
            options['input_boxes'] = coords[:, None, -2:].flatten(2)
            coords = coords[:, :-2]
        if self.prompt != 'boxes':
            options['input_points'] = coords[:, None]
            options['input_labels'] = torch.ones(
                (len(coords), 1, coords.shape[1]),
                dtype=torch.int,
                device=self.device,
            )
        return options


def _class_of(config, prompt, what):
    """Return the class that the library has for masks of prompts."""
    from transformers import AutoModelForMaskGeneration

    known = AutoModelForMaskGeneration._model_mapping
    if type(config) not in known:
        words = config.model_type.startswith('sam3')
        families = sorted({kind.model_type for kind in known})
        raise UserError(
            f'{what} holds a model of the family {config.model_type}, which '
            f'takes no {"points" if prompt == "both" else prompt}'
            + (' but words: use ConceptRefiner' if words else '')
            + f'. Families that do: {", ".join(families)}'
        )
    kind = known[type(config)]
    takes = inspect.signature(kind.forward).parameters
    absent = [name for name in _ARGUMENTS[prompt] if name not in takes]
    if absent:
        raise UserError(
            f'{what}: {kind.__name__} takes no {", ".join(absent)}, which '
            f'prompt={prompt!r} needs'
        )
    return kind


def _image_processor(folder, what):
    """Return the library's preparation of images for a model."""
    import transformers

    try:
        found = transformers.AutoImageProcessor.from_pretrained(folder)
        # Where there are two, the one that resizes by PIL does as the
        # original package of SAM does.
        name = type(found).__name__.removesuffix('Fast') + 'Pil'
        if hasattr(transformers, name):
            found = getattr(transformers, name).from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        text = str(error).strip().splitlines()[0]
        raise UserError(
            f'{what}={folder}: the config of its image processor cannot be '
            f'read ({type(error).__name__}: {text})'
        ) from error
    if not hasattr(found, 'post_process_masks'):
        raise UserError(
            f'{what}={folder}: its image processor is a '
            f'{type(found).__name__}, which belongs to no model for masks'
        )
    return found
