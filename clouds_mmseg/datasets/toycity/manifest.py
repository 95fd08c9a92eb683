"""What a folder of ToyCity was made with."""

import json
from pathlib import Path

from clouds_mmseg.datasets.toycity.layouts import DOMAINS, Sample
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError

MANIFEST = 'toycity.json'
# Written first: what an interrupted run was going to make.
PLAN = '.toycity.plan.json'


def read_manifest(path):
    """The manifest in a file; None if there is no such file.

    Args:
        path (str | Path): ``toycity.json`` below the root.

    Returns:
        dict: ``renderer`` (its version), ``size`` (width, height), ``seed``
        and ``images`` (number by domain).

    Raises:
        UserError: The file is something else.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        counts = [found['images'][domain] for domain in DOMAINS]
        if not all(isinstance(count, int) for count in counts):
            raise ValueError('a number of images is no integer')
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is not a manifest of ToyCity ({error!r}); delete the '
            f'folder, or write to another'
        ) from error
    return found


def write_manifest(path, plan):
    """Write a manifest, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=2) + '\n')


def samples_of(plan):
    """All samples that a manifest counts."""
    return [
        Sample(domain, index)
        for domain in DOMAINS
        for index in range(plan['images'][domain])
    ]


def differences(found, plan):
    """In words, what two manifests do not agree on."""
    return ', '.join(
        f'{key} is {found.get(key)!r}, not {plan.get(key)!r}'
        for key in {**plan, **found}
        if found.get(key) != plan.get(key)
    )
