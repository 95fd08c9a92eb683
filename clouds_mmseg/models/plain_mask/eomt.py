"""EoMTHead: queries in the last blocks of a trained ViT.

EoMT (CVPR 2025, arXiv 2503.19108; tue-mps/eomt): the tower itself is the
decoder. Letters as in :mod:`~.plain_head`.
"""

from collections.abc import Sequence
from typing import Any

from mmseg.registry import MODELS
from torch import Tensor, nn

from clouds_mmseg.models.mask2former.arguments import refuse_unknown
from clouds_mmseg.models.plain_mask.plain_head import (
    PlainMaskHead,
    TokenState,
    unmoved,
)
from clouds_mmseg.utils.errors import UserError


@MODELS.register_module()
class EoMTHead(PlainMaskHead):
    """EoMT: the last blocks of the tower see the queries too.

    The backbone is a trained :class:`~clouds_mmseg.models.TIMMTower` with
    ``output='tokens'`` and ``open_blocks``; its weights stay there, under
    their names. The head has the queries and what makes classes and masks of
    tokens.

    Args:
        in_channels: Channels C of the tower, one number; by default its own.
        num_classes: K, without "no object".
        strides: The patch size, one number; by default the tower's.
        num_queries: Q.
        num_blocks: Must be ``open_blocks`` of the tower, the default.
        classifier: As for :class:`~clouds_mmseg.models.CLOUDSHead`.
        loss: Options of :class:`~.criterion.MaskCriterion`.
        align_corners: How the segmentor resizes the result.
        ignore_index: Label of pixels that belong to no class.
        threshold: As for :class:`~clouds_mmseg.models.CLOUDSHead`.
        init_cfg: mmengine's initialisation.
        **unknown: None; an option of an upstream head is an error.

    Raises:
        UserError: An argument is out of range or does not fit the tower.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        num_classes: int,
        strides: Sequence[int],
        num_queries: int = 100,
        num_blocks: int = 4,
        classifier: dict | None = None,
        loss: dict | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
        threshold: float = 0.5,
        init_cfg: dict | None = None,
        **unknown: Any,
    ):
        refuse_unknown('EoMTHead', unknown, EoMTHead.__init__)
        super().__init__(
            in_channels=in_channels,
            strides=strides,
            num_classes=num_classes,
            num_queries=num_queries,
            num_blocks=num_blocks,
            classifier=classifier,
            loss=loss,
            align_corners=align_corners,
            ignore_index=ignore_index,
            threshold=threshold,
            init_cfg=init_cfg,
        )

    @classmethod
    def fit_to(cls, backbone: nn.Module, cfg: dict) -> dict:
        """Take width, stride and number of blocks of the tower; check it."""
        cfg = super().fit_to(backbone, cfg)
        found, wanted = backbone.open_blocks, cfg.get('num_blocks')
        if not found:
            raise UserError(
                'EoMTHead runs the last blocks of a trained tower with its '
                'queries: give model.backbone.open_blocks (EoMT: 4 of 24) and '
                'frozen=False. For a frozen tower there is PMTHead'
            )
        if wanted not in (None, found):
            raise UserError(
                f'model.decode_head.num_blocks={wanted}, but '
                f'model.backbone.open_blocks={found}: leave num_blocks out'
            )
        return {**cfg, 'num_blocks': found}

    def begin(self, x: Sequence[Tensor]) -> TokenState:
        """Put the queries among the tokens of the tower."""
        tower = getattr(x, 'tower', None)
        if tower is None:
            raise UserError(
                'EoMTHead needs the tower that its maps come from: give '
                'model.backbone.open_blocks, and no neck'
            )
        patches, prefix = x
        size = tuple(patches.shape[-2:])
        tokens = self.join(prefix[:, 0], patches.flatten(2).mT)
        table = tower.rotary_table(size)
        if table is not None:
            table = unmoved(table, self.num_queries)

        def run(index, tokens, mask):
            return tower.run_open_block(index, tokens, table, mask)

        return TokenState(tokens, prefix.shape[2], size, run, tower.final_norm)
