# tqdm on EVA02-CLIP-L, GTA5 -> Cityscapes, BDD100K, Mapillary Vistas.
# Published, in windows of 512 at 2048x1024: 68.88, 59.18, 70.10 (ECCV 2024).
# Ours is the benchmark's protocol: not to be compared with it.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/tqdm_eva02_large.py',
    '../_base_/pipelines/ratio_512.py',
    '../_base_/benchmarks/gta2cs.py',
    '../_base_/schedules/tqdm.py',
]
train_dataloader = dict(
    dataset=dict(
        pipeline={{_base_.train_pipeline_512_gta5}},
        # tqdm's: classes are drawn nearly uniformly.
        rare_class=dict(
            temperature=100.0, min_pixels=3000, min_crop_ratio=0.5
        ),
    )
)
