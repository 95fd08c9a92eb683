"""SAM as two functions: an image to its embedding, points to masks.

Shape letters: H, W of the image; C, h, w of SAM's embedding; N prompts of P
points; S, T of SAM's low-resolution masks (256 x 256 in the published ones).
"""

import torch

from clouds_mmseg.refine.digest import digest_file
from clouds_mmseg.refine.merge import select_best
from clouds_mmseg.refine.sam_weights import (
    build_sam,
    find_weights,
    sam_module,
)


class PromptedSAM:
    """A frozen SAM that keeps no state between calls.

    Args:
        variant (str): ``vit_b``, ``vit_l``, ``vit_h`` of segment-anything, or
            ``vit_t`` of MobileSAM.
        checkpoint (str | Path): Path or address of its weights.

    Attributes:
        identity (str): What its embeddings depend on besides the image: the
            variant and a digest of the weights.

    Raises:
        UserError: If the package is not installed, or the weights cannot be
            found or fetched.
        WeightFileError: If they cannot be read.
        CheckpointMismatchError: If they are of another variant.
    """

    def __init__(self, variant, checkpoint):
        # A missing package is named before gigabytes are fetched for it.
        sam_module(variant)
        path = find_weights(checkpoint, variant)
        self.model = build_sam(variant, path)
        transforms = sam_module(variant).SamPredictor(self.model).transform
        self.transform = transforms
        self.identity = f'{variant}-{digest_file(path)}'

    @property
    def device(self):
        """torch.device: Where the weights are."""
        return self.model.device

    def to(self, device):
        """Move the weights.

        Args:
            device (str | torch.device): Where to.
        """
        self.model.to(device)
        # MobileSAM's attention keeps a tensor that is neither a parameter
        # nor a buffer, and makes it anew only here.
        self.model.eval()

    @torch.no_grad()
    def embed(self, image):
        """Run the image encoder.

        Args:
            image (np.ndarray): (H, W, 3) uint8 RGB; resized here so that its
                long side is SAM's input size, then padded to a square.

        Returns:
            Tensor: (1, C, h, w) float32 on the device.
        """
        resized = self.transform.apply_image(image)
        tensor = torch.as_tensor(resized, device=self.device)
        tensor = tensor.permute(2, 0, 1)[None].contiguous()  # (1, 3, H', W')
        # The caller may be training under autocast; an embedding must not
        # depend on that, because it outlives the call in the cache.
        with torch.autocast(self.device.type, enabled=False):
            return self.model.image_encoder(self.model.preprocess(tensor))

    @torch.no_grad()
    def best_masks(self, embedding, points, size, mask_input=None):
        """Ask for masks and keep the one that SAM thinks best of the three.

        Args:
            embedding (Tensor): (1, C, h, w) of :meth:`embed`.
            points (np.ndarray): (N, P, 2) float32, (x, y) in pixels of the
                image, all of them inside of what is looked for.
            size (tuple[int, int]): (H, W) of the image.
            mask_input (Tensor | None): (N, S, T) float32: low-resolution
                logits of an earlier call, for a second pass.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Masks (N, H, W) bool, their
            predicted quality (N,) float32, and their low-resolution logits
            (N, S, T) float32.
        """
        model = self.model
        coords = torch.as_tensor(
            self.transform.apply_coords(points, size),
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
            logits, quality = model.mask_decoder(
                image_embeddings=embedding.float(),
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )  # (N, 3, S, T), (N, 3)
            # The choice does not need the masks: only those that are kept
            # are brought to the size of the image.
            low = select_best(logits, quality)  # (N, S, T)
            masks = model.postprocess_masks(
                low[:, None], self._input_size(size), size
            )
        return masks[:, 0] > model.mask_threshold, quality.amax(dim=1), low

    def _input_size(self, size):
        """(H, W) of the image as SAM sees it, before it is padded."""
        return self.transform.get_preprocess_shape(
            *size, self.transform.target_length
        )
