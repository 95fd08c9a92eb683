"""transformers' own models of the SAM family, small and drawn at random.

Each is saved as its authors publish it: a folder with configs and weights.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# Side of the input of SAM and SAM 2, and of SAM 3, whose patches are 14.
SIDE, SIDE_3 = 64, 56
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_DECODER = dict(
    hidden_size=32,
    mlp_dim=64,
    num_attention_heads=2,
    iou_head_hidden_dim=32,
)


def sam_config(kind='Sam', **decoder):
    """Config of a SAM or an HQ-SAM as small as tiny_sam's."""
    import transformers

    return getattr(transformers, f'{kind}Config')(
        vision_config=dict(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=16,
            output_channels=32,
            window_size=3,
            global_attn_indexes=[1],
            mlp_dim=64,
            num_pos_feats=16,
        ),
        prompt_encoder_config=dict(
            hidden_size=32,
            image_size=SIDE,
            patch_size=16,
            image_embedding_size=SIDE // 16,
        ),
        # As segment-anything's decoder has it.
        mask_decoder_config=dict(_DECODER, layer_norm_eps=1e-5, **decoder),
    )


def _pyramid(side, patch):
    """Sizes of the three feature maps."""
    grid = side // patch
    return [[grid * scale] * 2 for scale in (4, 2, 1)]


def _prompts(side, patch):
    return dict(hidden_size=32, image_size=side, patch_size=patch)


def _sam2(**vision):
    return dict(
        vision_config=dict(
            backbone_feature_sizes=_pyramid(SIDE, 16),
            fpn_hidden_size=32,
            **vision,
        ),
        prompt_encoder_config=_prompts(SIDE, 16),
        mask_decoder_config=_DECODER,
    )


def _vision_3():
    return dict(
        backbone_config=dict(
            model_type='sam3_vit_model',
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE_3,
            window_size=2,
            global_attn_indexes=[1],
            pretrain_image_size=28,
        ),
        fpn_hidden_size=32,
        backbone_feature_sizes=_pyramid(SIDE_3, 14),
    )


def _build(family):
    """Model of a family, and the class of its image processor."""
    import transformers as hf

    if family == 'sam':
        return hf.SamModel(sam_config())
    if family == 'sam_hq':
        return hf.SamHQModel(sam_config('SamHQ', vit_dim=32))
    if family == 'sam2':
        hiera = dict(
            model_type='sam2_hiera_det_model',
            hidden_size=8,
            image_size=[SIDE, SIDE],
            blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64],
            num_attention_heads_per_stage=[1, 1, 2, 2],
            window_size_per_stage=[4, 2, 2, 2],
            global_attention_blocks=[3],
            window_positional_embedding_background_size=[4, 4],
        )
        return hf.Sam2Model(
            hf.Sam2Config(
                **_sam2(
                    backbone_config=hiera,
                    backbone_channel_list=[64, 32, 16, 8],
                )
            )
        )
    if family == 'edgetam':
        timm = hf.TimmWrapperConfig(
            architecture='test_resnet',
            model_args=dict(
                in_chans=3, features_only=True, out_indices=[1, 2, 3, 4]
            ),
        )
        return hf.EdgeTamModel(
            hf.EdgeTamConfig(
                **_sam2(
                    backbone_config=timm,
                    backbone_channel_list=[96, 192, 48, 32],
                )
            )
        )
    parts = dict(hidden_size=32, num_attention_heads=2)
    layers = dict(parts, num_layers=1, intermediate_size=64)
    if family == 'sam3_tracker':
        return hf.Sam3TrackerModel(
            hf.Sam3TrackerConfig(
                vision_config=dict(
                    _vision_3(), model_type='sam3_vision_model'
                ),
                prompt_encoder_config=_prompts(SIDE_3, 14),
                mask_decoder_config=_DECODER,
            )
        )
    if family == 'sam3':
        return hf.Sam3Model(
            hf.Sam3Config(
                vision_config=_vision_3(),
                text_config=dict(
                    model_type='clip_text_model',
                    vocab_size=600,
                    hidden_size=16,
                    intermediate_size=16,
                    projection_dim=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=32,
                    bos_token_id=512,
                    eos_token_id=513,
                    pad_token_id=513,
                ),
                geometry_encoder_config=layers,
                detr_encoder_config=layers,
                detr_decoder_config=dict(layers, num_queries=5),
                mask_decoder_config=parts,
            )
        )
    if family == 'sam3_video':
        detector, tracker = _build('sam3').config, _sam2()
        tracker['vision_config'] = _vision_3()
        tracker['prompt_encoder_config'] = _prompts(SIDE_3, 14)
        tracker['image_size'] = SIDE_3
        return hf.Sam3VideoModel(
            hf.Sam3VideoConfig(
                detector_config=detector.to_dict(),
                tracker_config=hf.Sam3TrackerVideoConfig(**tracker).to_dict(),
            )
        )
    raise KeyError(family)


def _image_processor(family):
    import transformers as hf

    if family in ('sam', 'sam_hq'):
        return hf.SamImageProcessor(
            size=dict(longest_edge=SIDE),
            pad_size=dict(height=SIDE, width=SIDE),
        )
    if family in ('sam2', 'edgetam'):
        return hf.Sam2ImageProcessor(size=dict(height=SIDE, width=SIDE))
    return hf.Sam3ImageProcessor(size=dict(height=SIDE_3, width=SIDE_3))


def clip_tokenizer():
    """CLIP's tokenizer with its byte alphabet and no merges."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable]
    letters += [chr(256 + n) for n in range(len(others))]
    tokens = letters + [letter + '</w>' for letter in letters]
    tokens += ['<|startoftext|>', '<|endoftext|>']
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=32)


@torch.no_grad()
def spread(model):
    """Draw all weights anew: zeros and ones would hide what is exchanged."""
    for name, value in model.named_parameters():
        torch.nn.init.normal_(value, std=0.2)
        if value.ndim == 1 and name.endswith('weight'):
            # Scales of norms.
            value += 1
    for name, value in model.named_buffers():
        if name.endswith('positional_embedding'):
            value.normal_()
    shared = getattr(model, 'shared_image_embedding', None)
    own = getattr(
        getattr(model, 'prompt_encoder', None), 'shared_embedding', None
    )
    if shared is not None and own is not None:
        own.positional_embedding.copy_(shared.positional_embedding)
    return model.eval()


def write_model(folder, family, seed=0):
    """Save a model of a family with its configs; return the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = spread(_build(family))
    model.save_pretrained(folder)
    _image_processor(family).save_pretrained(folder)
    if family in ('sam3', 'sam3_video'):
        clip_tokenizer().save_pretrained(folder)
    if family == 'sam3_video':
        # As published: saving repeats a prefix, which loading does not know.
        path = Path(folder) / 'model.safetensors'
        twice, once = 'tracker_model.tracker_model.', 'tracker_model.'
        save_file(
            {k.replace(twice, once): v for k, v in load_file(path).items()},
            path,
            metadata=dict(format='pt'),
        )
    return Path(folder)
