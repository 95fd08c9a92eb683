"""A tiny random diffusion pipeline, and what the tests here compare by."""

import torch


def _clip_tokenizer():
    """CLIP's tokenizer with its byte alphabet and no merges."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable]
    letters += [chr(256 + n) for n in range(len(others))]
    tokens = letters + [letter + '</w>' for letter in letters]
    tokens += ['<|startoftext|>', '<|endoftext|>']
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def _safety_checker():
    """A real safety checker that finds every image unsafe."""
    from diffusers.pipelines.stable_diffusion.safety_checker import (
        StableDiffusionSafetyChecker,
    )
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPVisionConfig,
    )

    small = dict(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(
            text_config=CLIPTextConfig(**small).to_dict(),
            vision_config=CLIPVisionConfig(
                image_size=16, patch_size=8, **small
            ).to_dict(),
            projection_dim=8,
        )
    )
    # A cosine is never below -1.
    checker.concept_embeds_weights.fill_(-2)
    sizes = dict(
        size=dict(shortest_edge=16), crop_size=dict(height=16, width=16)
    )
    return checker, CLIPImageProcessor(**sizes)


def build_pipeline(seed=0, *, safety=False):
    """A Stable Diffusion pipeline of some 60 thousand random parameters."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = _clip_tokenizer()
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=[8, 16],
        down_block_types=['DownEncoderBlock2D'] * 2,
        up_block_types=['UpDecoderBlock2D'] * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=4,
            num_hidden_layers=2,
            vocab_size=len(tokenizer),
        )
    )
    checker, extractor = _safety_checker() if safety else (None, None)
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule='scaled_linear',
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=checker,
        feature_extractor=extractor,
        requires_safety_checker=safety,
    )


def tree(root):
    """Path below a folder -> bytes, for all its files, hidden ones too."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }
