"""A tiny random diffusion pipeline, and what the tests here compare by."""

import re

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


# A part of a name in diffusers -> in the checkpoints of Stable Diffusion's
# own code, which are one file.
_UNET_RESNET = {
    'norm1': 'in_layers.0', 'conv1': 'in_layers.2', 'norm2': 'out_layers.0',
    'conv2': 'out_layers.3', 'time_emb_proj': 'emb_layers.1',
    'conv_shortcut': 'skip_connection',
}  # fmt: skip
_VAE_ATTENTION = {
    'group_norm': 'norm', 'to_q': 'q', 'to_k': 'k', 'to_v': 'v',
    'to_out.0': 'proj_out',
}  # fmt: skip


def original_weights(pipe):
    """The weights of :func:`build_pipeline` under their original names."""
    weights = {}
    for key, value in pipe.unet.state_dict().items():
        weights[f'model.diffusion_model.{_unet_name(key)}'] = value
    for key, value in pipe.vae.state_dict().items():
        name = _vae_name(key)
        if '.attn_1.' in name and value.dim() == 2:
            value = value[:, :, None, None]
        weights[f'first_stage_model.{name}'] = value
    for key, value in pipe.text_encoder.state_dict().items():
        key = key.removeprefix('text_model.')
        weights[f'cond_stage_model.transformer.text_model.{key}'] = value
    return {key: value.contiguous() for key, value in weights.items()}


def _replaced(text, names):
    for old, new in names.items():
        text = re.sub(rf'(?<![\w]){re.escape(old)}(?!\w)', new, text)
    return text


def _unet_name(key):
    """Two levels of one block each; a level has two entries."""
    whole = {
        'time_embedding.linear_1': 'time_embed.0',
        'time_embedding.linear_2': 'time_embed.2',
        'conv_in': 'input_blocks.0.0',
        'conv_norm_out': 'out.0',
        'conv_out': 'out.2',
        'down_blocks.0.downsamplers.0.conv': 'input_blocks.2.0.op',
        'up_blocks.0.upsamplers.0.conv': 'output_blocks.1.2.conv',
        'mid_block.resnets.0': 'middle_block.0',
        'mid_block.attentions.0': 'middle_block.1',
        'mid_block.resnets.1': 'middle_block.2',
    }
    for level in range(2):
        place = f'input_blocks.{2 * level + 1}'
        whole[f'down_blocks.{level}.resnets.0'] = f'{place}.0'
        whole[f'down_blocks.{level}.attentions.0'] = f'{place}.1'
        for block in range(2):
            place = f'output_blocks.{2 * level + block}'
            old = f'up_blocks.{level}'
            whole[f'{old}.resnets.{block}'] = f'{place}.0'
            whole[f'{old}.attentions.{block}'] = f'{place}.1'
    for old, new in whole.items():
        if key.startswith(old + '.'):
            rest = key.removeprefix(old)
            if '.resnets.' in old:
                rest = _replaced(rest, _UNET_RESNET)
            return new + rest
    raise KeyError(key)


def _vae_name(key):
    """Levels of the decoder are counted from the other end."""
    key = re.sub(r'down_blocks\.(\d)\.resnets', r'down.\1.block', key)
    key = re.sub(
        r'down_blocks\.(\d)\.downsamplers\.0', r'down.\1.downsample', key
    )
    for level in range(2):
        up = f'decoder.up.{1 - level}'
        key = key.replace(f'decoder.up_blocks.{level}.resnets', f'{up}.block')
        key = key.replace(
            f'decoder.up_blocks.{level}.upsamplers.0', f'{up}.upsample'
        )
    for block in range(2):
        key = key.replace(
            f'mid_block.resnets.{block}', f'mid.block_{block + 1}'
        )
    if 'mid_block.attentions.0' in key:
        key = key.replace('mid_block.attentions.0', 'mid.attn_1')
        key = _replaced(key, _VAE_ATTENTION)
    key = key.replace('conv_norm_out', 'norm_out')
    return key.replace('conv_shortcut', 'nin_shortcut')


def build_editor(seed=0):
    """InstructPix2Pix: its UNet reads the source image beside the noise."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    plain = build_pipeline(seed)
    parts = {
        name: part
        for name, part in plain.components.items()
        if name not in ('image_encoder', 'unet')
    }
    unet = type(plain.unet)(**{**plain.unet.config, 'in_channels': 8})
    return StableDiffusionInstructPix2PixPipeline(
        unet=unet, requires_safety_checker=False, **parts
    )


def build_controlnet(unet, seed=0):
    """A ControlNet whose last layers are not zero, as after training."""
    from diffusers import ControlNetModel

    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(4, 8)
    )
    for block in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.5)
    torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight)
    return net


def build_klein():
    """FLUX.2 [klein] with a Qwen3 of 28 layers, of which it reads three."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = _word_tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLFlux2(
            down_block_types=('DownEncoderBlock2D',) * 2,
            up_block_types=('UpDecoderBlock2D',) * 2,
            block_out_channels=(4, 4),
            layers_per_block=1,
            latent_channels=1,
            norm_num_groups=1,
        ),
        text_encoder=Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=28,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=4,
            )
        ),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=True,
    )


def _word_tokenizer():
    """A tokenizer of language models, which has no limit of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Qwen2TokenizerFast

    words = 'a street with cars in fog rain at night user'.split()
    tokens = ['<unk>', '<pad>', '<eos>', *words]
    core = Tokenizer(
        models.WordLevel(
            {token: i for i, token in enumerate(tokens)}, unk_token='<unk>'
        )
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=core,
        unk_token='<unk>',
        pad_token='<pad>',
        eos_token='<eos>',
    )
    tokenizer.chat_template = (
        '{% for m in messages %}user {{ m.content }} {% endfor %}'
    )
    return tokenizer


def save_depth_model(folder):
    """A DPT of four layers, saved with its image processor."""
    from transformers import (
        DPTConfig,
        DPTForDepthEstimation,
        DPTImageProcessor,
    )

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    model = DPTForDepthEstimation(config)
    # As it is initialised, all depths are the same to 1e-6.
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    # The last layer cuts depths below zero.
    model.head.head[-2].bias.data.fill_(10)
    model.save_pretrained(folder)
    DPTImageProcessor(size=dict(height=32, width=32)).save_pretrained(folder)
