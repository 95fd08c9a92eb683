# Train on GTA5; test on Cityscapes, BDD100K and Mapillary Vistas.
_base_ = ['../real_targets.py', '../datasets/gta5.py']
train_dataloader = dict(dataset={{_base_.train_gta5}})
