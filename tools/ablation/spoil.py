"""A generated image set of which some images are spoilt on purpose."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from clouds_mmseg.generate.backends import encode_png
from clouds_mmseg.generate.image_bank import encode_entry
from clouds_mmseg.utils.image_set import MANIFEST_FILE, read_entries
from clouds_mmseg.utils.images import decode_ids, read_image

KINDS = ('label moved', 'blank', 'another scene')


def spoil_bank(
    bank: str | Path, out: str | Path, *, share: float = 0.1, seed: int = 0
) -> dict[int, str]:
    """Copy a generated image set with labels and spoil some of its images.

    Args:
        bank: Folder of the set, made with ``--keep-labels``.
        out: Folder of the copy; replaced.
        share: Of the images that are spoilt.
        seed: Of the choice and of the changes.

    Returns:
        Number of an image -> what was done to it, of :data:`KINDS`.
    """
    bank, out = Path(bank), Path(out)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(bank, out, ignore=shutil.ignore_patterns('filter'))
    entries = read_entries(bank)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(sorted(entries))[: round(share * len(entries))]
    # A scene takes the place of another one, and stays in its own too: only
    # its label is wrong, its image would be found as a copy otherwise.
    others = [number for number in entries if number not in set(chosen)]
    spoilt = {}
    for turn, number in enumerate(chosen.tolist()):
        kind = KINDS[turn % len(KINDS)]
        entry = entries[number]
        entry.pop('filter', None)
        path = out / entry['file']
        label = out / entry['evaluation_label']
        if kind == 'blank':
            height, width = read_image(path).shape[:2]
            level = rng.integers(0, 256)
            noise = rng.normal(level, 1, (height, width, 3))
            payload = encode_png(np.clip(noise, 0, 255).astype(np.uint8))
            path.write_bytes(payload)
            entry['bytes'] = len(payload)
            entry['sha256'] = hashlib.sha256(payload).hexdigest()
        else:
            if kind == 'label moved':
                ids = decode_ids(label.read_bytes())
                width = ids.shape[1]
                by = int(rng.integers(width // 8, width // 2))
                ids = np.roll(ids, by * rng.choice([-1, 1]), axis=1)
            else:
                other = entries[int(rng.choice(others))]
                file = bank / other['evaluation_label']
                ids = decode_ids(file.read_bytes())
            label.write_bytes(encode_png(ids.astype(np.uint8)))
        spoilt[number] = kind
    for entry in entries.values():
        entry.pop('filter', None)
    lines = (encode_entry(entry) for entry in entries.values())
    (out / MANIFEST_FILE).write_bytes(b''.join(lines))
    text = json.dumps({str(n): kind for n, kind in sorted(spoilt.items())})
    (out / 'spoilt.json').write_text(text + '\n')
    return spoilt


def report(out: str | Path, spoilt: dict[int, str]) -> list[str]:
    """Compare what the filter left out with what was spoilt, as lines."""
    left = {
        number
        for number, entry in read_entries(out).items()
        if not entry['filter']['used']
    }
    rows = [
        (kind, {n for n, what in spoilt.items() if what == kind})
        for kind in KINDS
    ]
    rows.append(('all spoilt', set(spoilt)))
    rows.append(('not spoilt', set(read_entries(out)) - set(spoilt)))
    lines = []
    for name, numbers in rows:
        found = len(numbers & left)
        share = 100 * found / max(len(numbers), 1)
        lines.append(
            f'{name:14} {found:4} of {len(numbers):4} left out ({share:.1f} %)'
        )
    return lines
