"""Check of a ``.pt2`` file before torch loads it.

``torch.export.load`` trusts its file: it unpickles, evaluates expressions as
Python, executes guards, imports what a specification names and calls any
function below ``torch``. What ``clouds export`` writes needs none of that
beyond tensor operations, and nothing else is passed on.
"""

import ast
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.weights.integrity import check_archive

# Members below the folder of the archive.
_MEMBERS = re.compile(
    r'models/model\.json|data/sample_inputs/model\.pt'
    r'|data/weights/(weight_\d+|model_weights_config\.json)'
    r'|data/constants/(tensor_\d+|model_constants_config\.json)'
    r'|extra/\w+\.json|archive_(format|version)|byteorder'
    r'|\.data/(version|serialization_id)'
)
_TARGETS = re.compile(
    r'torch\.ops\.(aten|prims|torchvision)\.\w+\.\w+'
    r'|torch\.sym_(int|float|not|max|min|sqrt|ite)'
    r'|math\.(ceil|floor|trunc|sqrt)'
    r'|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|and_|or_'
    r'|not_|eq|ne|lt|le|gt|ge|getitem)'
)
# Of aten's operations, those that read and write files.
_FILES = re.compile(r'torch\.ops\.aten\.(from_file|save)\b')
# What an expression about sizes may call.
_FUNCTIONS = frozenset(
    'Add Mul Pow Mod PythonMod FloorDiv CleanDiv CeilDiv ModularIndexing Max '
    'Min Abs Integer Rational Float Symbol Eq Ne Lt Le Gt Ge And Or Not '
    'Equality Unequality StrictLessThan LessThan StrictGreaterThan '
    'GreaterThan IntTrueDiv FloatTrueDiv PowByNatural FloatPow ToFloat '
    'TruncToInt RoundToInt CeilToInt FloorToInt Where Piecewise'.split()
)
_NAME = re.compile(
    r'[suz]+\d+|L|inf|oo|int_oo|True|False|true|false|nan|torch'
)
_SYMBOLIC = re.compile(r'torch\.sym_(int|float|not|max|min|sqrt|ite)')
_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare),
    *(ast.Load, ast.Constant, ast.operator, ast.unaryop, ast.boolop),
    *(ast.cmpop, ast.keyword, ast.Tuple),
)
_WORD = re.compile(r'\w*')


def check_program(path: Path) -> None:
    """Refuse a ``.pt2`` file that could do more than compute.

    Args:
        path: The file.

    Raises:
        ValueError: It holds something that ``clouds export`` does not write.
        DamagedError: A checksum is wrong.
    """
    for name in check_archive(path):
        _, _, inside = name.partition('/')
        if not _MEMBERS.fullmatch(inside):
            raise ValueError(f'it holds {name!r}')
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith('.json'):
                _check_json(parse_json(archive.read(name)))


def _check_json(content):
    for key, value in _entries(content):
        if key == 'use_pickle' and value:
            raise ValueError('a weight in it is pickled')
        if key == 'path_name' and not _WORD.fullmatch(str(value)):
            raise ValueError(f'it names the file {value!r}')
        if key == 'target' and (
            not _TARGETS.fullmatch(str(value)) or _FILES.match(str(value))
        ):
            raise ValueError(f'it calls {value!r}')
        if key == 'range_constraints':
            for name in value:
                _check_expression(name)
        if key == 'expr_str' or (key == 'guards_code' and value):
            _check_expression(value)
        # A specification of containers may name a class to import.
        if isinstance(value, str) and ('__enum__' in value or 'fqn' in value):
            raise ValueError(f'it names a class: {value[:80]!r}')


def _entries(content: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the values of nested JSON with the keys that they stand under."""
    if isinstance(content, dict):
        yield key, content
        for name, value in content.items():
            yield from _entries(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _entries(value, key)
    else:
        yield key, content


def _check_expression(text):
    """Refuse an expression that is more than arithmetic of sizes."""
    refused = ValueError(f'it would execute {text!r:.80}')
    if not isinstance(text, str) or '#' in text or not text.isprintable():
        raise refused
    try:
        tree = ast.parse(text, mode='eval')
        if not all(_is_arithmetic(node) for node in ast.walk(tree)):
            raise refused
    except (SyntaxError, RecursionError) as error:
        raise refused from error


def _is_arithmetic(node):
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or bool(_NAME.fullmatch(node.id))
    if isinstance(node, ast.Call):
        # The size of an input: L['image'].size()[2]; torch.sym_max(1, ...).
        return isinstance(node.func, (ast.Name, ast.Attribute))
    if isinstance(node, ast.Attribute):
        return (
            node.attr == 'size' and isinstance(node.value, ast.Subscript)
        ) or bool(_SYMBOLIC.fullmatch(ast.unparse(node)))
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant)
    if isinstance(node, ast.Pow):
        # Of any number of digits; sizes have PowByNatural.
        return False
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(_WORD.fullmatch(node.value))
    return isinstance(node, _NODES)
