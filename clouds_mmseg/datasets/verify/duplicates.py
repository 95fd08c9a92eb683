"""Images that are there more than once."""

import os

from clouds_mmseg.datasets.verify.findings import Finding


def find_duplicates(reports):
    """Add findings about equal image files.

    An image of training that an evaluation set holds as another file is an
    error: its result would be no result. Any other is a warning. A file that
    two sets name is one image, not two.

    Args:
        reports (list[SetReport]): With ``digests``; they are added to.
    """
    places = {}
    for report in reports:
        for image, (digest, label) in report.digests.items():
            found = places.setdefault(digest, {})
            path = os.path.realpath(os.path.join(report.root, image))
            found.setdefault(path, (report, image, label))
    for same in places.values():
        if len(same) > 1:
            _judge(list(same.values()))


def _judge(same):
    for place, (report, image, label) in enumerate(same):
        leaks = [o for o in same if report.training and not o[0].training]
        earlier = [o for o in same[:place] if o[0].training == report.training]
        if not leaks and not earlier:
            continue
        kind = 'leak' if leaks else 'duplicate'
        other, twin, _ = (leaks or earlier)[0]
        where = '' if other is report else f' of {other.name}'
        text = f'image {image} is the same as {twin}{where}.'
        report.findings.append(Finding(kind, text, image, label))
