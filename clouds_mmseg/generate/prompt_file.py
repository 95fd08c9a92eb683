"""Prompt files: one prompt a line, and beside it how they were made."""

import hashlib
import json
from pathlib import Path

from clouds_mmseg.generate.coverage import class_coverage
from clouds_mmseg.generate.errors import GenerationError
from clouds_mmseg.utils.atomic import atomic_path
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.text_files import read_lines


def read_prompts(path):
    """Read a prompt file; empty lines are passed over.

    Args:
        path (str | Path): A UTF-8 text file, one prompt a line.

    Returns:
        list[tuple[int, str]]: Line number, from 1, and text of each prompt.

    Raises:
        GenerationError: The file is missing, not UTF-8, binary or empty.
    """
    path = Path(path)
    hint = 'Make one with: python tools/generate_prompts.py --num 100 --out'
    what = 'the prompt file'
    try:
        lines = read_lines(path, what)
    except UserError as error:
        raise GenerationError(f'{error}. {hint} FILE') from error
    prompts = [(number, ' '.join(line.split())) for number, line in lines]
    if not prompts:
        raise GenerationError(
            f'the prompt file {path} is empty: it must have one prompt a '
            f'line. {hint} {path}'
        )
    return prompts


def write_prompts(path, prompts, how):
    """Write a prompt file and ``<name>.json`` beside it.

    Args:
        path (str | Path): The text file. The JSON file has the same name
            with the suffix ``.json``.
        prompts (Sequence[str]): One line each.
        how (dict): How they were made; JSON values. Their number, coverage
            and hash are added.

    Returns:
        Path: The JSON file.

    Raises:
        GenerationError: They cannot be written there.
    """
    path = Path(path)
    beside = path.with_suffix('.json')
    if beside == path:
        raise GenerationError(
            f'--out {path} is the name of the JSON file beside the prompts; '
            'give the prompts another suffix, such as .txt'
        )
    payload = ''.join(f'{prompt}\n' for prompt in prompts).encode()
    how = dict(
        how,
        num=len(prompts),
        coverage=class_coverage(prompts),
        sha256=hashlib.sha256(payload).hexdigest(),
    )
    text = json.dumps(how, indent=2, ensure_ascii=False) + '\n'
    try:
        for file, content in ((beside, text.encode()), (path, payload)):
            # The same prompts may lie where nothing can be written.
            if not (file.is_file() and file.read_bytes() == content):
                with atomic_path(file) as temporary:
                    temporary.write_bytes(content)
    except OSError as error:
        raise GenerationError(
            f'the prompts cannot be written to {path}: {error}'
        ) from error
    return beside


class Unique:
    """Collects prompts that differ in more than case and punctuation."""

    def __init__(self):
        self.prompts = []
        self.duplicates = 0
        self._keys = set()

    def add(self, prompt):
        """Take a prompt in unless it is there.

        Returns:
            bool: Whether it was new.
        """
        key = normalise(prompt)
        if key in self._keys:
            self.duplicates += 1
            return False
        self._keys.add(key)
        self.prompts.append(prompt)
        return True


def normalise(prompt):
    """Return the words of a prompt in lower case, one space apart."""
    kept = ''.join(c if c.isalnum() else ' ' for c in prompt.casefold())
    return ' '.join(kept.split())
