# Pieces: sam3_words, sam3_points, sam3_hooks.
# SAM 3's weights are given on request (SAM License); how to get them is told
# before the first iteration. What these refiners gain is not measured.
# SAM 3 finds classes by their words where the teacher is unsure of them. Its
# scores depend on the image alone: it runs once for each.
sam3_words = dict(
    type='ConceptRefiner',
    weights='facebook/sam3',
    words={
        'road': ['road'],
        'sidewalk': ['sidewalk', 'pavement'],
        'building': ['building', 'house'],
        'wall': ['wall'],
        'fence': ['fence', 'railing'],
        'pole': ['pole', 'lamp post'],
        'traffic light': ['traffic light'],
        'traffic sign': ['traffic sign'],
        'vegetation': ['tree', 'bush', 'hedge'],
        'terrain': ['grass', 'bare soil'],
        'sky': ['sky'],
        'person': ['pedestrian', 'person sitting'],
        'rider': ['person riding a bicycle', 'person riding a motorcycle'],
        'car': ['car', 'van'],
        'truck': ['truck'],
        'bus': ['bus'],
        'train': ['train', 'tram'],
        'motorcycle': ['motorcycle', 'scooter'],
        'bicycle': ['bicycle'],
    },
    fusion='uncertain',
    # Some 3 MB an image before compression.
    cache_dir='data/generated_sam3',
)
# SAM 3 by points in the place of MobileSAM: dict(type='SAMRefineHook',
# refiner={{_base_.sam3_points}}).
sam3_points = dict(
    type='PromptableRefiner',
    weights='facebook/sam3',
    cache_dir='data/generated_sam3',
    # 5,000 embeddings of 10.6 MB.
    cache_bytes=60_000_000_000,
)
# Those of ../self_training.py.
sam3_hooks = [
    dict(type='ProgressHook'),
    dict(type='PredictionPicturesHook', per_domain=2),
    dict(type='ResultsHook'),
    dict(type='EMATeacherHook', interval=100),
    dict(type='PseudoLabelReportHook', interval=500),
    dict(type='SAMRefineHook', refiner=sam3_words),
]
