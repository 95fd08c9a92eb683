# Train on ToyCity's game-like source; test on a held-out part of it and on
# the five targets.
_base_ = ['../loaders_native.py', '../datasets/toycity.py']
train_dataloader = dict(dataset={{_base_.train_toycity_source}})
val_dataloader = dict(
    # The images are small and of one size.
    batch_size=8,
    dataset=dict(
        datasets=[
            {{_base_.val_toycity_source}},
            {{_base_.val_toycity_clear}},
            {{_base_.val_toycity_fog}},
            {{_base_.val_toycity_night}},
            {{_base_.val_toycity_rain}},
            {{_base_.val_toycity_snow}},
        ]
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    domains=[
        'toycity_source',
        'toycity_clear',
        'toycity_fog',
        'toycity_night',
        'toycity_rain',
        'toycity_snow',
    ],
    # Reported, but no part of the mean over unseen domains.
    source_domains=['toycity_source'],
)
test_evaluator = val_evaluator
