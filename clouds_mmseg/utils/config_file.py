"""Configs: finding and reading of files, and of the text in a checkpoint.

A mistake in a file is one message: conversion, publishing, benchmark and the
tools read configs, and none of them should end in a traceback for a comma.

The text of a config is a program, and a checkpoint may come from anywhere: it
is read without executing it. What mmengine saves is assignments of literals
and ``dict(...)``.
"""

import ast
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config

from clouds_mmseg.compat import IncompatibleStackError
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import closest_names

# Settings that affect training or initialisation only.
_TRAINING = {
    'init_cfg',
    'pretrained',
    'weights',
    'train_cfg',
    'test_cfg',
    'loss',
    'loss_decode',
    'sampler',
    'ignore_index',
    'frozen_stages',
    'norm_eval',
    'with_cp',
    'batch_augments',
    'size',
    'size_divisor',
    'pad_val',
    'seg_pad_val',
    # Chosen by the config of each test.
    'text_embeddings',
}
# Arithmetic in a config that is read without being executed. Not ``**``.
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
# Of a list that a multiplication makes, and of its operands.
_LONGEST = 10_000
_GREATEST = 2**63
_PARTS = ('data_preprocessor', 'backbone', 'neck', 'decode_head')
ABSENT = '(not set)'

ZOO = 'mmseg'
OWN = 'clouds_mmseg'
# Where MMEngine looks for the configs of a scope. In a checkout, this
# package's is a link to the top-level folder configs/.
CONFIGS = {
    ZOO: Path(mmseg.__file__).parent / '.mim' / 'configs',
    OWN: Path(__file__).resolve().parents[1] / '.mim' / 'configs',
}


def find_config(name: str | Path, option: str = '') -> Path:
    """Return the file of a config.

    Args:
        name: A path, or ``clouds_mmseg::folder/name.py`` or
            ``mmseg::folder/name.py`` for a config of the installed package;
            with these ``.py`` may be left out.
        option: By which it was given, for the message.

    Raises:
        UserError: There is no such config.
    """
    name = str(name)
    scope, colons, relative = name.partition('::')
    if colons:
        return _find_installed(f'{option} {name}'.strip(), scope, relative)
    if Path(name).is_file():
        return Path(name)
    said = f'there is no config {name}'
    if option:
        said = f'{option} {name}: there is no such file'
    # As the documentation writes it, away from a checkout.
    relative = name.removeprefix('configs/')
    if relative.endswith('.py') and (CONFIGS[OWN] / relative).is_file():
        said += f'; the installed package has {OWN}::{relative}'
    raise UserError(
        f'{said}; give a file, {OWN}::NAME for a config of the installed '
        f'package (as {OWN}::toycity/clouds.py), or {ZOO}::NAME for one of '
        "MMSegmentation's zoo"
    )


def _find_installed(name, scope, relative):
    if scope not in CONFIGS:
        raise UserError(
            f'{name}: there are configs of {OWN}:: and, from '
            f"MMSegmentation's zoo, of {ZOO}::, and none of {scope}::"
        )
    root = CONFIGS[scope]
    file = relative.removesuffix('.py') + '.py'
    if (root / file).is_file():
        return root / file
    known = [
        path.relative_to(root).as_posix()
        for path in root.glob('*/*.py')
        if path.parent.name != '_base_'
    ]
    near = closest_names(file, known, most=3, cutoff=0.4)
    raise UserError(
        f'{name}: the installed {scope} has no such config; near: '
        + (', '.join(f'{scope}::{n}' for n in near) or 'none')
    )


def read_file(path: str | Path, **kwargs: Any) -> Config:
    """Read a config file; whatever it raises is a mistake in it.

    Args:
        path: An existing file.
        **kwargs: Of ``Config.fromfile``.

    Returns:
        The config.

    Raises:
        UserError: It is no Python, imports what is not installed, has a
            ``_base_`` that does not exist, or fails in another way.
    """
    try:
        return Config.fromfile(path, **kwargs)
    except (UserError, IncompatibleStackError):
        raise
    except FileNotFoundError as error:
        said = f'{error}; correct _base_ (relative to the config itself)'
    except SyntaxError as error:
        # The file itself, or a temporary copy of it under another name.
        line = f'line {error.lineno}: ' if error.lineno else ''
        said = f'{line}{error.msg}'
    except Exception as error:
        said = error.args[0] if error.args else ''
        said = f'{type(error).__name__}: {said}'
    raise UserError(f'the config {path} cannot be read: {said}')


def parse_config_text(text: str | None) -> dict | None:
    """Read the text of a config without executing it.

    mmengine's own reader runs the text as a program, and a checkpoint may
    come from anywhere.

    Args:
        text: ``Config.pretty_text``, as mmengine saves it.

    Returns:
        Literals, tuples as lists, arithmetic of literals (``[128.0] * 3``,
        ``1 / 255``) as its result, other expressions as source text. None if
        there is no text or it is no config.
    """
    if not text or not isinstance(text, str):
        return None
    try:
        return {
            node.targets[0].id: _value(node.value)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
        } or None
    except (SyntaxError, ValueError, RecursionError):
        return None


def _value(node):
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(child) for child in node.elts]
    if isinstance(node, ast.Dict):
        return _pairs(node)
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
        # A key that is no identifier: dict({'a b': 1}).
        values = {}
        for argument in node.args:
            if isinstance(argument, ast.Dict):
                values.update(_pairs(argument))
        values.update({k.arg: _value(k.value) for k in node.keywords if k.arg})
        return values
    if isinstance(node, ast.BinOp):
        return _arithmetic(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand)
        return -operand if _is_number(operand) else ast.unparse(node)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return ast.unparse(node)


def _arithmetic(node):
    """Evaluate ``a * b`` of numbers and lists, or return its source text."""
    left, right = _value(node.left), _value(node.right)
    compute = _ARITHMETIC.get(type(node.op))
    # Source text that stays is a string, and no operand.
    numbers = _is_number(left) and _is_number(right)
    if isinstance(node.op, ast.Mult):
        lists = [x for x in (left, right) if isinstance(x, list)]
        counts = [x for x in (left, right) if type(x) is int]
        # Flat: what holds lists could grow with each multiplication.
        fits = numbers or (
            len(lists) == len(counts) == 1
            and len(lists[0]) * counts[0] <= _LONGEST
            and not any(isinstance(x, (list, dict)) for x in lists[0])
        )
    elif isinstance(node.op, ast.Add):
        both_lists = isinstance(left, list) and isinstance(right, list)
        fits = numbers or both_lists
    else:
        fits = numbers
    if compute is None or not fits:
        return ast.unparse(node)
    try:
        return compute(left, right)
    except (ArithmeticError, ValueError):
        return ast.unparse(node)


def _is_number(value):
    # An integer of any length would be multiplied for hours.
    return type(value) is float or (
        type(value) is int and abs(value) <= _GREATEST
    )


def _pairs(node):
    return {
        str(_value(key)): _value(value)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is not None
    }


def literal_config(value: Any) -> Any:
    """Convert a config or a part as :func:`parse_config_text` does."""
    if hasattr(value, 'items'):
        return {str(k): literal_config(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal_config(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        # inf and nan have no literal.
        text = isinstance(value, float) and value - value != 0
        return str(value) if text else value
    if isinstance(value, type):
        module = value.__module__
        prefix = '' if module == 'builtins' else f'{module}.'
        return prefix + value.__name__
    return str(value)


def config_differences(
    was: Any, now: Any, key: str = ''
) -> Iterator[tuple[str, Any, Any]]:
    """Compare two configs of :func:`literal_config`.

    Args:
        was: The first.
        now: The second.
        key: Dotted key of both.

    Yields:
        Dotted key and both values, for the innermost values that differ;
        :data:`ABSENT` where one has none.
    """
    if isinstance(was, dict) and isinstance(now, dict):
        if 'type' in was and 'type' in now and was['type'] != now['type']:
            yield f'{key}.type', was['type'], now['type']
            return
        for name in sorted(was.keys() | now.keys()):
            yield from config_differences(
                was.get(name, ABSENT),
                now.get(name, ABSENT),
                f'{key}.{name}' if key else name,
            )
    elif isinstance(was, list) and isinstance(now, list):
        if len(was) != len(now):
            yield key, was, now
            return
        for index, (a, b) in enumerate(zip(was, now, strict=True)):
            yield from config_differences(a, b, f'{key}.{index}')
    elif was != now:
        yield key, was, now


def model_differences(meta: dict | None, cfg: Config) -> list[str]:
    """Compare a model's settings with those it was trained with.

    Weights of equal shapes fit models that compute different things: another
    mean of the pixels, number of attention heads, dilation.

    Args:
        meta: Of a checkpoint.
        cfg: Of the test.

    Returns:
        ``model.name: trained value -> current value``, without settings that
        affect training only; empty where the checkpoint has no config.
    """
    text = meta.get('cfg') if isinstance(meta, dict) else None
    saved = parse_config_text(text)
    if not saved or not isinstance(saved.get('model'), dict):
        return []
    trained, current = saved['model'], literal_config(cfg.get('model') or {})
    # Test-time augmentation wraps the model.
    current = current.get('module', current)
    trained = trained.get('module', trained)
    lines = []
    for part in _PARTS:
        # Configs of mmseg 0.x have no preprocessor.
        if part in trained and part in current:
            _compare(f'model.{part}', trained[part], current[part], lines)
    return lines


def require_same_resize(meta: dict | None, cfg: Config, source: str) -> None:
    """Refuse a tower whose tables are resized otherwise than it was trained.

    All shapes are the same with either way, and all features are others.

    Args:
        meta: Of a checkpoint.
        cfg: Of the model that loads it.
        source: The checkpoint, for the message.

    Raises:
        UserError: ``model.backbone.resize`` differs.
    """
    text = meta.get('cfg') if isinstance(meta, dict) else None
    saved = parse_config_text(text) or {}
    ways = []
    for model in (saved.get('model'), literal_config(cfg.get('model') or {})):
        model = model if isinstance(model, dict) else {}
        backbone = model.get('module', model).get('backbone') or {}
        if backbone.get('type') not in ('TIMMTower', 'TIMMCLIPTower'):
            return
        ways.append(backbone.get('resize', 'timm'))
    if ways[0] != ways[1]:
        raise UserError(
            f'{source} was trained with model.backbone.resize={ways[0]!r}, '
            f'and this config has {ways[1]!r}: position table and patch '
            'kernel would be resized otherwise, and the features be others '
            f'without a word; give model.backbone.resize={ways[0]}'
        )


def _compare(name, trained, current, lines):
    if isinstance(trained, dict) and isinstance(current, dict):
        for key in dict.fromkeys([*trained, *current]):
            # Dropout is for training, whatever the option is called.
            if key in _TRAINING or 'drop' in str(key):
                continue
            default = 'the default'
            _compare(
                f'{name}.{key}',
                trained.get(key, default),
                current.get(key, default),
                lines,
            )
    elif _comparable(trained) != _comparable(current):
        lines.append(f'{name}: {trained!r} -> {current!r}')


def _comparable(value):
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _comparable(item) for key, item in value.items()}
    # BN and SyncBN differ in training only.
    return 'BN' if value == 'SyncBN' else value
