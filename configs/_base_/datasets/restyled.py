# Pieces: bank_restyled, bank_from_labels.
# The source's own images in other weather and light, by an editing model:
# labels stay right where objects stay in place. Not measured on these
# benchmarks; restyling by pixel operations on ToyCity: docs/ablation.md.
bank_restyled = dict(
    num_prompts=500,
    prompt_kind='edit',
    backend='diffusers',
    mode='edit',
    model='black-forest-labs/FLUX.2-klein-4B',
    # Those that it was distilled to.
    steps=4,
    # The short edge, a multiple of 16.
    size=768,
    dtype='bfloat16',
)
# Images made from the source's label maps, with these as their labels. The
# ControlNet knows the colours of ADE20K, which has no train. Not measured.
bank_from_labels = dict(
    num_prompts=500,
    prompt_kind='restyle',
    backend='diffusers',
    mode='label2img',
    model='stable-diffusion-v1-5/stable-diffusion-v1-5',
    controlnet='lllyasviel/control_v11p_sd15_seg',
    palette='ade20k',
    unknown_classes='ignore',
    # Pixels of the label on each side of a border, which the model does not
    # follow exactly.
    ignore_border=2,
    size=768,
    dtype='float16',
)
