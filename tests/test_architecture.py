"""Imports of the package go down its floors, and never round in a circle.

The floors are those of ``docs/architecture.md``.
"""

import ast
import os
from pathlib import Path

import pytest

PACKAGE = 'clouds_mmseg'
# From the ground up. A package may import those of the floors below it.
FLOORS = (
    # Modules that import nothing of ours.
    ('compat', 'registry', 'version'),
    ('utils',),
    ('weights', 'toycity'),
    ('models', 'refine', 'generate', 'datasets', 'evaluation'),
    ('robustness', 'conversion', 'data_tools'),
    ('engine', 'predict'),
    ('report', 'bridges', 'web', 'image_filter'),
    ('cli',),
)
KNOWN_CIRCLES = [
    # The sample check runs the loading steps; the steps look files up.
    'clouds_mmseg.datasets, clouds_mmseg.datasets.transforms',
]
# Importable next to the package in a checkout, and no part of it.
OUTSIDE = ('tools', 'tests', 'configs', 'ablation', 'benchmark')
# The options of the command lines, standard library only: for cli alone.
OPTIONS = 'clouds_mmseg_cli'


def read_imports(root: Path) -> dict[str, set[str]]:
    """Return which modules each module of a package imports, also late.

    Args:
        root: Folder of the package.

    Returns:
        Dotted name of each module -> dotted names as imported; of
        ``from a import b`` it is ``a.b`` where that is a module of the
        package, else ``a``.
    """
    names = {}
    for path in sorted(root.rglob('*.py')):
        parts = path.relative_to(root.parent).with_suffix('').parts
        names['.'.join(parts).removesuffix('.__init__')] = path
    imports = {}
    for name, path in names.items():
        found = set()
        package = name.split('.')
        if path.name != '__init__.py':
            package.pop()
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) + 1 - node.level]
                parts = above if node.level else []
                base = '.'.join([*parts, *filter(None, [node.module])])
                for alias in node.names:
                    full = f'{base}.{alias.name}'
                    found.add(full if full in names else base)
        imports[name] = found
    return imports


def wrong_imports(
    imports: dict[str, set[str]],
    package: str = PACKAGE,
    floors: tuple[tuple[str, ...], ...] = FLOORS,
) -> list[str]:
    """Return the imports that break the floors, a sentence each."""
    floor = {room: level for level, row in enumerate(floors) for room in row}
    wrong = []
    for module, targets in imports.items():
        room = _room(module)
        if room and room not in floor:
            wrong.append(f'{module}: {room} is on no floor')
            continue
        for target in sorted(targets):
            first = target.split('.')[0]
            if first in OUTSIDE or (first == OPTIONS and room != 'cli'):
                wrong.append(f'{module} imports {target} from outside')
            other = _room(target)
            if first != package or not room or other in (None, room):
                # The package's own __init__ registers everything.
                if first == package and room and other is None:
                    wrong.append(f'{module} imports the whole of {package}')
            elif other in floor and floor[other] > floor[room]:
                wrong.append(f'{module} imports {target} from above')
            elif other in floor and floor[other] == floor[room]:
                wrong.append(f'{module} imports {target} beside it')
    return wrong


def _room(module: str) -> str | None:
    return module.split('.')[1] if '.' in module else None


def _folder(parts, size):
    """Return the sub-package of a module, or the package that it is in."""
    return '.'.join(parts[: size if len(parts) > size else size - 1])


def import_cycles(imports: dict[str, set[str]]) -> list[str]:
    """Return modules, and packages in one folder, that import in a circle.

    A package and its own sub-packages are a pair too, but for its
    ``__init__``: ``engine`` registers what ``engine.hooks`` holds.

    Returns:
        The names of each circle, in one line.
    """
    modules, packages = {}, {}
    inits = {name.rpartition('.')[0] for name in imports}
    for module, targets in imports.items():
        for target in targets & set(imports):
            _add(modules, module, target)
            ours, theirs = module.split('.'), target.split('.')
            shared = len(os.path.commonprefix([ours, theirs]))
            # Both have at least one more folder above the file.
            if shared + 1 < min(len(ours), len(theirs)):
                size = shared + 1
                _add(packages, '.'.join(ours[:size]), '.'.join(theirs[:size]))
            # A file beside a sub-package, and one inside of it.
            elif shared + 1 < max(len(ours), len(theirs)) and shared > 1:
                if module not in inits:
                    size = shared + 1
                    _add(packages, _folder(ours, size), _folder(theirs, size))
    return sorted({*_circles(modules), *_circles(packages)})


def _add(arrows, start, end):
    if start != end:
        arrows.setdefault(start, set()).add(end)


def _circles(arrows):
    reach = {name: set(ends) for name, ends in arrows.items()}
    for middle in reach:
        for name in reach:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    for name in reach:
        if name in reach[name]:
            # The names that are reached and lead back.
            around = {o for o in reach[name] if name in reach.get(o, ())}
            yield ', '.join(sorted(around))


@pytest.fixture(scope='module')
def imports(repo_root):
    return read_imports(repo_root / PACKAGE)


def test_imports_go_down(imports):
    assert len(imports) > 100
    assert wrong_imports(imports) == []


def test_nothing_imports_in_a_circle(imports):
    assert import_cycles(imports) == KNOWN_CIRCLES


def test_every_floor_is_in_the_package_and_in_the_docs(repo_root):
    """A floor that no longer exists would check nothing."""
    page = (repo_root / 'docs/architecture.md').read_text()
    for room in (room for row in FLOORS for room in row):
        path = repo_root / PACKAGE / room
        assert path.is_dir() or path.with_suffix('.py').is_file()
        assert room in page


@pytest.mark.parametrize(
    ('path', 'line', 'message'),
    [
        ('utils/a.py', 'from clouds_mmseg.models import x', 'from above'),
        ('models/a.py', 'import clouds_mmseg.refine.b', 'beside it'),
        ('models/a.py', 'from ..datasets import b', 'beside it'),
        ('weights/a.py', 'def f():\n import clouds_mmseg.cli', 'from above'),
        ('engine/a.py', 'from tools import x', 'from outside'),
        ('cli/a.py', 'import tests.tiny_run', 'from outside'),
        ('engine/a.py', 'import clouds_mmseg_cli.names', 'from outside'),
        ('engine/a.py', 'import clouds_mmseg', 'the whole of'),
        ('attic/a.py', '', 'on no floor'),
    ],
)
def test_a_wrong_import_is_found(tmp_path, path, line, message):
    root = tmp_path / PACKAGE
    for room in ('utils', 'models', 'refine', 'datasets', 'cli', 'weights'):
        (root / room).mkdir(parents=True)
        (root / room / '__init__.py').write_text('')
    (root / '__init__.py').write_text('from clouds_mmseg import models\n')
    assert wrong_imports(read_imports(root)) == []
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(line + '\n')
    (found,) = wrong_imports(read_imports(root))
    assert message in found


def test_right_imports_are_none(tmp_path):
    root = tmp_path / PACKAGE
    for path, line in {
        'engine/a.py': 'from clouds_mmseg.models.b import x',
        'cli/a.py': 'from clouds_mmseg_cli.options import x',
        'models/b.py': 'from clouds_mmseg.utils import errors\nimport torch',
        'models/c/d.py': 'from ..b import x',
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(line + '\n')
    imports = read_imports(root)
    assert wrong_imports(imports) == import_cycles(imports) == []


@pytest.mark.parametrize(
    ('files', 'circle'),
    [
        # Files of one folder.
        (
            {'models/a.py': 'models.b', 'models/b.py': 'models.a'},
            'clouds_mmseg.models.a, clouds_mmseg.models.b',
        ),
        # Packages whose files import no file that leads back to them.
        (
            {'a/x.py': 'b.x', 'b/x.py': 'u.z', 'b/y.py': 'a.y', 'a/y.py': ''},
            'clouds_mmseg.a, clouds_mmseg.b',
        ),
        (
            {'t/a/x.py': 't.b.x', 't/b/x.py': '', 't/b/y.py': 't.a.x'},
            'clouds_mmseg.t.a, clouds_mmseg.t.b',
        ),
        # A package and its own sub-package.
        (
            {
                't/x.py': 't.a.x',
                't/a/x.py': '',
                't/a/y.py': 't.y',
                't/y.py': '',
            },
            'clouds_mmseg.t, clouds_mmseg.t.a',
        ),
    ],
)
def test_a_circle_is_found(tmp_path, files, circle):
    root = tmp_path / PACKAGE
    for path, target in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        line = f'import {PACKAGE}.{target}\n' if target else ''
        (root / path).write_text(line)
    (root / 'u').mkdir(exist_ok=True)
    (root / 'u' / 'z.py').write_text('')
    assert import_cycles(read_imports(root)) == [circle]


def test_hooks_and_loops_ask_the_runner(repo_root):
    """What mmengine's runner keeps private is read by our runners alone."""
    engine = repo_root / PACKAGE / 'engine'
    files = [*engine.glob('hooks/*.py'), *engine.glob('*.py')]
    assert len(files) > 10
    found = [
        f'{path.name}: {ast.unparse(node)}'
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith('_')
        and ast.unparse(node.value) in ('runner', 'self.runner')
    ]
    assert found == []
