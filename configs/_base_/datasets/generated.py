# Pieces: train_generated, bank_generated, sam_refiner.
# Made by tools/generate_images.py. The teacher labels the image as it is
# stored; the student sees it mirrored and in other colours.
train_generated = dict(
    type='GeneratedDataset',
    bank='data/generated',
    # The official size, that of the crops.
    size=(768, 768),
    # Existence and file sizes are compared in any case.
    verify_hash=False,
    pipeline=[
        dict(type='LoadSegImage'),
        dict(type='KeepCleanView'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='FastPhotoMetricDistortion'),
        dict(type='PackDGInputs'),
    ],
)
# How the bank is made, by tools/generate_images.py: the official model,
# scheduler, steps and guidance.
bank_generated = dict(
    out='data/generated',
    num=5000,
    num_prompts=100,
    backend='diffusers',
    model='stabilityai/stable-diffusion-2',
    scheduler='EulerDiscreteScheduler',
    steps=50,
    guidance=7.5,
    size='768x768',
    dtype='float16',
)
# MobileSAM, as officially; variant='vit_h' is SAM's own largest. The clean
# views never change: their embeddings are kept.
sam_refiner = dict(
    type='SAMRefiner',
    variant='vit_t',
    checkpoint='weights/mobile_sam.pt',
    cache_dir='data/generated_sam',
)
