# The same, with the text classifier: a class is found under any of its words.
_base_ = './my_dataset.py'
model = dict(
    decode_head=dict(
        classifier=dict(
            type='text',
            text_embeddings=dict(
                classes={{_base_.words}},
                model_name='RN50',
                # A tag of open_clip, or the path of downloaded weights.
                pretrained='openai',
            ),
        )
    )
)
