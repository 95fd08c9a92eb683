# Your own images and classes: copy this file and change it.
# See docs/custom_dataset.md.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/clouds_lite0.py',
    '../_base_/benchmarks/folders.py',
]
# Class -> its words. The first classifier needs the names alone; the words
# are for the text classifier, see my_dataset_text.py.
classes = dict(
    road=['road', 'street'],
    car=['car', 'van', 'taxi'],
    other=['building', 'tree', 'sky'],
)
words = list(classes.values())
mine = dict(
    type='FolderDataset',
    metainfo=dict(classes=list(classes)),
    # What the ids in the label files are called, and which names make up a
    # class. Names that no class takes are ignored.
    names=dict(void=0, road=1, marking=2, car=3, house=4, tree=5, sky=6),
    label_map=dict(road=['marking', 'road'], other=['house', 'tree', 'sky']),
)
train_dataloader = dict(
    dataset=dict(domain='day', data_root='data/my_dataset/day', **mine)
)
val_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                domain='night',
                data_root='data/my_dataset/night',
                pipeline={{_base_.test_pipeline_folders}},
                **mine,
            )
        ]
    )
)
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=len(classes)),
)
