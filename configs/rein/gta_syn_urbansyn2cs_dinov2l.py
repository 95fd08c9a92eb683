# Rein on a frozen DINOv2-L, trained on three synthetic sets: GTA5, SYNTHIA and
# UrbanSyn -> Cityscapes, BDD100K, Mapillary Vistas. Rein's readme has 78.4 on
# Cityscapes, by Rein's evaluation, and does not say how the sets are mixed.
# Terrain, truck and train, which SYNTHIA lacks, come from the other two: the
# mean over 16 classes is for comparison with SYNTHIA alone.
_base_ = [
    './syn2cs_dinov2l.py',
    '../_base_/datasets/gta5.py',
    '../_base_/datasets/urbansyn.py',
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='LabelledSources',
        datasets=[
            {{_base_.train_gta5}},
            {{_base_.train_synthia}},
            {{_base_.train_urbansyn}},
        ],
        # As their numbers of images: each is drawn equally often.
        shares=[0.596, 0.224, 0.18],
        pipeline={{_base_.train_pipeline_512}},
    )
)
