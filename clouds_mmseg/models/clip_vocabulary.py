"""Other words for the Cityscapes classes, for a text classifier.

A class is found under any of its words, so what the annotators put into a
class gets its own word where the class name does not say it.
"""

CITYSCAPES_SYNONYMS = {
    'road': ['road', 'street', 'lane marking', 'asphalt'],
    'sidewalk': ['sidewalk', 'pavement', 'footpath', 'curb'],
    'building': ['building', 'house', 'skyscraper', 'shop front', 'garage'],
    'wall': ['wall', 'free-standing wall', 'stone wall'],
    'fence': ['fence', 'railing'],
    'pole': ['pole', 'lamp post', 'sign post'],
    'traffic light': ['traffic light', 'traffic signal'],
    'traffic sign': ['traffic sign', 'road sign', 'direction sign'],
    'vegetation': ['vegetation', 'tree', 'bush', 'hedge'],
    'terrain': ['terrain', 'grass', 'lawn', 'bare soil', 'sand'],
    'sky': ['sky', 'clouds'],
    'person': ['person', 'pedestrian', 'child'],
    'rider': ['rider', 'cyclist', 'motorcyclist'],
    'car': ['car', 'van', 'taxi', 'sports utility vehicle'],
    'truck': ['truck', 'lorry', 'pickup truck with a box'],
    'bus': ['bus', 'coach'],
    'train': ['train', 'tram'],
    'motorcycle': ['motorcycle', 'moped', 'scooter'],
    'bicycle': ['bicycle', 'bike'],
}


def with_synonyms(classes):
    """Replace the class names that the table knows by their synonyms.

    Args:
        classes (Sequence[str]): Class names.

    Returns:
        list[list[str]]: For each class its words, the name alone where the
        table does not know it.
    """
    return [list(CITYSCAPES_SYNONYMS.get(name, [name])) for name in classes]
