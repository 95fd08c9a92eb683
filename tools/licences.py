"""Write docs/licences.md: the licences of what ``setup.cfg`` requires.

``python tools/licences.py`` reads the metadata of the installed packages and
of what these require; ``--check`` compares with the file instead.
"""

import argparse
import configparser
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'licences.md'
# Extras that add nothing of their own, or only for development.
LEFT_OUT = ('dev', 'all', 'docs')
HEAD = """# Licences of the dependencies

What `pip install` brings with each part, by the packages' own metadata, on
Linux and Python 3.11. Written by `python tools/licences.py`, checked in CI
with `--check`. Weights have licences of their own: see
[known weights](model_zoo.md).

The first table has those with terms beyond naming their authors, found by
words in the names of the licences. NVIDIA's libraries come with PyPI's torch
for Linux, and a build of torch for the CPU does without them.

"""
# By word in the name of a licence.
GROUPS = {
    'non-commercial use only': r'non-?commercial|\bNC\b',
    'copyleft': r'\bGPL|\bLGPL|\bAGPL|General Public|\bMPL|Mozilla',
    'proprietary': r'proprietary|NVIDIA',
}


def licence_of(name: str) -> str:
    """Return what the metadata of a package says of its licence."""
    meta = distribution(name).metadata
    text = meta.get('License-Expression')
    if not text:
        found = [
            c.rpartition(' :: ')[2]
            for c in meta.get_all('Classifier') or []
            if c.startswith('License ::') and c != 'License :: OSI Approved'
        ]
        text = ', '.join(found) or meta.get('License') or 'not stated'
    # Some packages put the whole text there.
    line = text.strip().splitlines()[0]
    return line if len(line) < 80 else f'{line[:77]}...'


def required(names: list[str]) -> dict[str, str]:
    """Return package -> licence, of packages and what they require."""
    found: dict[str, str] = {}
    todo = [(Requirement(name), '') for name in names]
    while todo:
        requirement, extra = todo.pop()
        marker = requirement.marker
        if marker and not marker.evaluate({'extra': extra}):
            continue
        name = re.sub(r'[-_.]+', '-', requirement.name).lower()
        try:
            parts = distribution(name).requires or []
        except PackageNotFoundError:
            found.setdefault(name, 'not installed')
            continue
        fresh = name not in found
        found[name] = licence_of(name)
        for extra in requirement.extras:
            todo += [(Requirement(part), extra) for part in parts]
        if fresh:
            todo += [(Requirement(part), '') for part in parts]
    return found


def page() -> str:
    """Return the text of the page."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    parts = {'(always)': config['options']['install_requires']}
    parts |= config['options.extras_require']
    known: set[str] = set()
    lines, special = [], []
    for part, text in parts.items():
        names = [n for n in text.split('\n') if n and n[0] != '#']
        if part in LEFT_OUT:
            continue
        names = [n for n in names if not n.startswith('clouds_mmseg')]
        found = required(names)
        lines += [f'## {part}', '', '| package | licence |', '|---|---|']
        rows = sorted(set(found) - known)
        lines += [f'| {name} | {found[name]} |' for name in rows]
        if not rows:
            lines.append('| nothing more | |')
        lines.append('')
        for name in rows:
            special += [
                f'| {name} | {part} | {group} | {found[name]} |'
                for group, word in GROUPS.items()
                if re.search(word, found[name], re.IGNORECASE)
            ]
        known |= set(found)
    none = [] if special else ['| none | | | |']
    head = ['| package | part | group | licence |', '|---|---|---|---|']
    return HEAD + '\n'.join([*head, *special, *none, '', *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args()
    text = page()
    if not args.check:
        PAGE.write_text(text, encoding='utf-8')
        return 0
    if PAGE.read_text(encoding='utf-8') == text:
        return 0
    print(f'{PAGE} is out of date: run python tools/licences.py')
    return 1


if __name__ == '__main__':
    sys.exit(main())
