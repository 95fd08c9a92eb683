"""Queries that are text embeddings: the head of tqdm.

Letters: N images, K classes, C channels of queries and features, D
dimensions of the space of images and texts, S tokens of the pixel decoder.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from clouds_mmseg.models.backbones.clip_source import find_clip
from clouds_mmseg.models.backbones.clip_tower import CLIPMaps
from clouds_mmseg.models.mask2former.head import CLOUDSHead
from clouds_mmseg.models.mask2former.inference import label_of_scores
from clouds_mmseg.models.mask2former.layers import Attention, no_autocast
from clouds_mmseg.models.mask2former.mask_head import stack_labels
from clouds_mmseg.models.mask2former.pixel_decoder import (
    EncoderLayer,
    PixelDecoder,
)
from clouds_mmseg.models.mask2former.text_prompts import (
    LearnedPrompts,
    build_prompts,
)
from clouds_mmseg.utils.errors import UserError

REGULARISATION = ('text', 'image', 'score_map')
# Of the cosines in the score map, as in CLIP's training.
_TEMPERATURE = 0.07


class TextEncoderLayer(EncoderLayer):
    """An encoder layer whose tokens attend to the classes' text as well.

    Deformable self-attention, cross-attention to the text, feed-forward;
    each then normalised. Arguments as for :class:`EncoderLayer`.
    """

    def __init__(self, *, channels: int, num_heads: int, **kwargs: Any):
        super().__init__(channels=channels, num_heads=num_heads, **kwargs)
        self.text_attn = Attention(channels, num_heads)
        self.norms.append(nn.LayerNorm(channels))

    def attend(
        self,
        x: Tensor,
        position: Tensor,
        centres: Tensor,
        shapes: list[tuple[int, int]],
        text: Tensor,
        text_key: Tensor,
    ) -> Tensor:
        """Map tokens (N, S, C) to the same shape.

        Args:
            x: (N, S, C).
            position: (S, C).
            centres: As for :class:`EncoderLayer`.
            shapes: As for :class:`EncoderLayer`.
            text: (N, K, C), the values.
            text_key: (N, K, C), the same with positions.
        """
        x = self.norms[0](self.self_attn(x, position, centres, shapes))
        x = self.norms[1](
            self.text_attn(x + position, text_key, text, identity=x)
        )
        return self.norms[2](self.ffn(x))


class TextPixelDecoder(PixelDecoder):
    """The pixel decoder with cross-attention to text in every layer.

    Source: tqdm (ECCV 2024), section 3.3.

    Args:
        text_channels: D.
        num_texts: K.
        feat_channels: C.
        **kwargs: As for :class:`PixelDecoder`.
    """

    layer_class = TextEncoderLayer

    def __init__(
        self,
        *,
        text_channels: int,
        num_texts: int,
        feat_channels: int,
        **kwargs: Any,
    ):
        super().__init__(feat_channels=feat_channels, **kwargs)
        self.encoder.post_norm = nn.LayerNorm(feat_channels)
        self.text_proj = nn.Linear(text_channels, feat_channels)
        self.text_pos_embed = nn.Embedding(num_texts, feat_channels)

    def encode(
        self,
        x: Tensor,
        position: Tensor,
        centres: Tensor,
        shapes: list[tuple[int, int]],
        feats: Sequence[Tensor],
    ) -> Tensor:
        """Apply the layers to tokens (N, S, C), with the text of ``feats``."""
        text = self.text_proj(feats.text)  # type: ignore[attr-defined]
        key = text + self.text_pos_embed.weight
        for layer in self.encoder.layers:
            x = layer.attend(x, position, centres, shapes, text, key)
        return self.encoder.post_norm(x)


@MODELS.register_module()
class TextQueryHead(CLOUDSHead):
    """Mask2Former's head whose queries are the classes' text embeddings.

    As in tqdm (Textual Query-Driven Mask Transformer for Domain Generalized
    Segmentation, ECCV 2024): query k is made of the text of class k and is
    matched with class k, whatever it predicts; the pixel decoder attends to
    the text; and three losses keep the text, the image's feature and their
    similarity at what CLIP had learnt. Scores are summed at the size of the
    masks and resized then, unlike Mask2Former's.

    The text encoder is frozen, and part of the checkpoint as in tqdm's.

    Args:
        num_classes: K.
        text: Arguments of
            :func:`~.text_prompts.build_prompts`: ``classes``, and
            ``model_name`` and ``pretrained`` of the CLIP model that the tower
            of the backbone is of. Or the prompts themselves.
        regularisation: Weights of the losses: ``text`` (cross entropy of the
            cosines with the fixed sentences of all classes), ``image`` (mean
            square difference of the image's feature from that of the tower
            before training; the backbone needs ``keep_initial=True``) and
            ``score_map`` (cross entropy of the patches' similarity with the
            classes). 1 each by default; 0 leaves a loss out.
        loss: As for :class:`CLOUDSHead`; ``assignment`` is ``'fixed'`` by
            default.
        load_pretrained: False leaves the weights of the text encoder unread.
        num_queries: None; there is a query for each class.
        **kwargs: As for :class:`CLOUDSHead`.

    Raises:
        UserError: As :class:`CLOUDSHead`; and for a number of class names
            that is not K.
    """

    resizes_scores = True

    def __init__(
        self,
        *,
        num_classes: int,
        text: dict | LearnedPrompts,
        regularisation: dict | None = None,
        loss: dict | None = None,
        load_pretrained: bool = True,
        num_queries: int | None = None,
        **kwargs: Any,
    ):
        if num_queries not in (None, num_classes):
            raise UserError(
                'TextQueryHead has one query for each class: leave '
                f'num_queries={num_queries} out'
            )
        weights = _read_regularisation(regularisation)
        if not isinstance(text, LearnedPrompts):
            prompts = _build(text, num_classes, load_pretrained)
        else:
            prompts = text
        if 'queries' in kwargs:
            raise UserError(
                'TextQueryHead makes its queries of text: leave '
                f'queries={kwargs["queries"]!r} out'
            )
        # Read while the parts are built, before there can be submodules.
        self._text_channels = prompts.channels
        super().__init__(
            num_classes=num_classes,
            num_queries=num_classes,
            queries='text',
            loss=dict(dict(assignment='fixed'), **loss or {}),
            **kwargs,
        )
        self.regularisation = weights
        self.text = prompts

    def _build_pixel_decoder(self, **kwargs: Any) -> PixelDecoder:
        return TextPixelDecoder(
            text_channels=self._text_channels,
            num_texts=self.num_classes,
            **kwargs,
        )

    def _build_queries(self) -> None:
        channels = self.feat_channels
        self.query_embed = nn.Embedding(self.num_queries, channels)
        self.text_proj = nn.Sequential(
            nn.Linear(self._text_channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the text encoder of a config is missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        CLOUDSHead.find_weights(cfg)
        text = cfg.get('text')
        if isinstance(text, dict):
            find_clip(
                text.get('model_name'), text.get('pretrained'), fetch=False
            )

    def forward(
        self, x: Sequence[Tensor], batch_data_samples: list | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Predict as :meth:`CLOUDSHead.forward` does.

        Args:
            x: Maps of a :class:`~clouds_mmseg.models.TIMMCLIPTower`.
            batch_data_samples: Not used.
        """
        return super().forward(self.with_text(x), batch_data_samples)

    def predict_for_loss(
        self, x: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """Predict as :meth:`CLOUDSHead.predict_for_loss` does."""
        return super().predict_for_loss(self.with_text(x))

    def last_prediction(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predict as :meth:`CLOUDSHead.last_prediction` does."""
        return super().last_prediction(self.with_text(x))

    def with_text(self, x: Sequence[Tensor]) -> CLIPMaps:
        """Return the maps with the embeddings of the classes for each image.

        Raises:
            UserError: The backbone does not compare images with text.
        """
        if not isinstance(x, CLIPMaps):
            raise UserError(
                'TextQueryHead needs the features that CLIP compares with '
                'text, and the backbone hands over maps alone: give '
                "backbone=dict(type='TIMMCLIPTower', ...)"
            )
        if x.text is not None:
            return x
        both: CLIPMaps = copy.copy(x)
        both.text = self.text(both.image, both.dense)
        return both

    def _queries(self, x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return features (N, K, C) and positions (K, C) of the queries."""
        text = x.text  # type: ignore[attr-defined]
        return self.text_proj(text), self.query_embed.weight

    def loss(
        self,
        x: Sequence[Tensor],
        batch_data_samples: list[SegDataSample],
        train_cfg: dict | None = None,
    ) -> dict[str, Tensor]:
        """Predict and compare with the labels, and with what CLIP had learnt.

        Args:
            x: As for :meth:`forward`.
            batch_data_samples: As for :meth:`CLOUDSHead.loss`.
            train_cfg: Not used.

        Returns:
            The losses of :class:`CLOUDSHead`, and ``loss_text``,
            ``loss_image`` and ``loss_score_map``.
        """
        x = self.with_text(x)
        losses = super().loss(x, batch_data_samples, train_cfg)
        losses.update(self.regularise(x, stack_labels(batch_data_samples)))
        return losses

    def regularise(self, x: CLIPMaps, labels: Tensor) -> dict[str, Tensor]:
        """Compute the regularisation losses, weighted.

        Args:
            x: Of :meth:`with_text`.
            labels: (N, H, W) int64 in [0, K) or ``ignore_index``.

        Raises:
            UserError: The backbone keeps no copy of its first weights.
        """
        weights, losses = self.regularisation, {}
        assert x.text is not None
        with no_autocast(x.text.device.type):
            text = F.normalize(x.text.float(), dim=-1)
            if weights['text']:
                cosines = text @ self.text.fixed().float().T  # (N, K, K)
                classes = torch.arange(cosines.shape[1], device=text.device)
                losses['loss_text'] = weights['text'] * F.cross_entropy(
                    cosines.flatten(0, 1), classes.repeat(len(cosines))
                )
            if weights['image']:
                if x.initial_image is None:
                    raise UserError(
                        'decode_head.regularisation.image compares with the '
                        'tower before training: give the backbone '
                        'keep_initial=True, or the head '
                        'regularisation=dict(image=0)'
                    )
                losses['loss_image'] = weights['image'] * F.mse_loss(
                    x.image.float(), x.initial_image.float()
                )
            if weights['score_map']:
                scores = self.score_map(x) / _TEMPERATURE
                scores = F.interpolate(
                    scores,
                    size=labels.shape[-2:],
                    mode='bilinear',
                    align_corners=False,
                )
                # Over all pixels: those without label count as zero.
                value = F.cross_entropy(
                    scores,
                    labels,
                    ignore_index=self.ignore_index,
                    reduction='none',
                ).mean()
                losses['loss_score_map'] = weights['score_map'] * value
        return losses

    def score_map(self, x: CLIPMaps) -> Tensor:
        """Return the cosine of each patch with each class: (N, K, h, w)."""
        assert x.text is not None
        text = F.normalize(x.text.float(), dim=-1)
        dense = F.normalize(x.dense.float(), dim=1)
        return torch.einsum('nchw,nkc->nkhw', dense, text)

    def predict(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        test_cfg: dict | None = None,
    ) -> Tensor:
        """Predict scores at the size of the network's input.

        Returns:
            (N, K, H, W) float32 scores, not negative.
        """
        del batch_img_metas, test_cfg
        x = self.with_text(x)
        return F.interpolate(
            self._small_scores(x),
            size=x.size,
            mode='bilinear',
            align_corners=False,
        )

    def predict_labels(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        test_cfg: dict | None = None,
    ) -> Tensor:
        """Predict the best class of each pixel, without holding all scores.

        Returns:
            (N, H, W) int64, as :meth:`CLOUDSHead.predict_labels`.
        """
        del test_cfg
        x = self.with_text(x)
        return torch.stack(
            [
                label_of_scores(
                    scores,
                    self.threshold,
                    size=x.size,
                    image=meta.get('img_path'),
                )
                for scores, meta in zip(
                    self._small_scores(x), batch_img_metas, strict=True
                )
            ]
        )

    def _small_scores(self, x):
        """Sum the masks of all queries at their size: (N, K, h_0, w_0)."""
        cls_logits, mask_logits = self.last_prediction(x)
        classes = cls_logits.float().softmax(-1)[..., :-1]
        with no_autocast(cls_logits.device.type):
            masks = mask_logits.float().sigmoid()
            return torch.einsum('nqk,nqhw->nkhw', classes, masks)


def _build(text, num_classes, load_pretrained):
    classes = text.get('classes') if isinstance(text, dict) else None
    if isinstance(classes, str) or not classes or len(classes) != num_classes:
        raise UserError(
            'TextQueryHead: text must be a dict with classes, one name for '
            f'each of num_classes={num_classes}; got {classes or text!r}'
        )
    try:
        return build_prompts(**text, load_pretrained=load_pretrained)
    except TypeError as error:
        raise UserError(f'TextQueryHead: text: {error}') from error


def _read_regularisation(given):
    weights = dict.fromkeys(REGULARISATION, 1.0)
    for name, value in (given or {}).items():
        if name not in weights:
            raise UserError(
                f'regularisation of TextQueryHead has no {name!r}; it has '
                + ', '.join(REGULARISATION)
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(
                f'regularisation.{name} must be a number, got {value!r}'
            )
        if not 0 <= value < float('inf'):
            raise UserError(
                f'regularisation.{name} must not be negative or infinite, '
                f'got {value!r}'
            )
        weights[name] = float(value)
    return weights
