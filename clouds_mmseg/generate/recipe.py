"""Comparison of what a bank was made with and what is asked for."""

import json

_LENGTH = 70
# Not written by the first versions: what a bank of theirs was made with in
# this respect is not known.
_LATER = {'variant', 'safety_checker'}
_NAMES = {
    'fingerprint': 'fingerprint (the files of the model have changed)',
    'threads': 'threads (rounding depends on it)',
    'batch_size': 'batch_size (rounding depends on it)',
}


def differences(found, asked):
    """Name what differs between two recipes, one line each.

    Args:
        found (dict): Recipe of the bank on disk.
        asked (dict): Recipe of this command.

    Returns:
        list[str]: Empty if the recipes are equal.
    """
    lines = []
    for key in dict.fromkeys((*found, *asked)):
        old, new = found.get(key), asked.get(key)
        if old == new or (key in _LATER and key not in found):
            continue
        if key == 'prompts' and old and new:
            lines.append(_prompts(old, new))
            continue
        name = _NAMES.get(key, key)
        lines.append(f'{name}: the bank has {_short(old)}, now {_short(new)}')
    return lines


def _prompts(old, new):
    for number, (a, b) in enumerate(zip(old, new, strict=False), 1):
        if a != b:
            return (
                f'prompts: prompt {number} is {_short(a)} in the bank, now '
                f'{_short(b)}'
            )
    return f'prompts: the bank has {len(old)} of them, now {len(new)}'


def _short(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + '...'
