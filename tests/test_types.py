"""Public functions, methods and constructors have types.

``make lint`` compares the types with one another (mypy); this test refuses
those that are missing. Private functions may do without.
"""

import ast

import pytest


def missing_types(tree: ast.AST, prefix: str = '') -> list[str]:
    """Return public functions without types, with what lacks one.

    Args:
        tree: A module or class.
        prefix: Dotted name of the class, with its dot.
    """
    found = []
    for node in ast.iter_child_nodes(tree):
        name = getattr(node, 'name', None) or ''
        special = name.startswith('__') and name.endswith('__')
        if name.startswith('_') and not special:
            continue
        if isinstance(node, ast.ClassDef):
            found += missing_types(node, f'{prefix}{name}.')
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            static = any(
                getattr(item, 'id', '') == 'staticmethod'
                for item in node.decorator_list
            )
            if prefix and not static:
                named = named[1:]
            named += filter(None, [given.vararg, given.kwarg])
            lacks = [item.arg for item in named if item.annotation is None]
            if node.returns is None and name != '__init__':
                lacks.append('return')
            if lacks:
                found.append(f'{prefix}{name}: {", ".join(lacks)}')
        elif isinstance(node, ast.If | ast.Try):
            found += missing_types(node, prefix)
    return found


def test_public_functions_have_types(repo_root):
    missing = {
        path.relative_to(repo_root).as_posix(): found
        for path in sorted((repo_root / 'clouds_mmseg').rglob('*.py'))
        if (found := missing_types(ast.parse(path.read_text())))
    }
    assert missing == {}


@pytest.mark.parametrize(
    ('source', 'found'),
    [
        ('def f(a, *b, c: int = 1, **d): ...', ['f: a, b, d, return']),
        ('def f(a: int) -> int: ...\ndef _g(a): ...', []),
        ('class A:\n def __init__(self, a): ...', ['A.__init__: a']),
        ('class A:\n @staticmethod\n def f(a) -> int: ...', ['A.f: a']),
        ('class A:\n @property\n def f(self): ...', ['A.f: return']),
        ('class _A:\n def f(self, a): ...', []),
        ('if x:\n def f() -> None: ...\nelse:\n def f(): ...', ['f: return']),
    ],
)
def test_a_missing_type_is_found(source, found):
    assert missing_types(ast.parse(source)) == found
