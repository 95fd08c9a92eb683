"""What the pages name exists: files, options of the tools, links, imports."""

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest
from guard import registered, tool_options

import clouds_mmseg  # noqa: F401

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
PAGES = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').rglob('*.md'))]
# Options of other programs, and of tests/guard.py.
FOREIGN = {
    *('--local-dir', '--no-python', '--nproc-per-node', '--max-restarts'),
    '--write',
    # Slurm.
    *('--nodes', '--gpus-per-node', '--cpus-per-task', '--ntasks'),
    *('--gpus-per-task', '--kill-on-bad-exit'),
}
# Files of other projects, which look like ours.
ELSEWHERE = re.compile(r'mmseg::[\w./-]+|MMSegmentation, \S+|\w+://\S+')
FILE = re.compile(r'(?<![\w./<>~*{}-])[\w-][\w./-]*\.(?:py|sh|md|cff|cfg)\b')
FOLDER = re.compile(
    r'(?<![\w./-])(?:configs|docs|tests|tools|clouds_mmseg)/[\w./-]*'
)
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\]\(([^()\s]+)\)')
# Words of ours for which the field has words: refine, reference
# implementation, benchmark case, multi-scale features, attention mask, ...
COINED = re.compile(
    r'\b(?:mend(?:s|ed|ing)?|plain.formulations?|contenders?|memories|'
    r'attendable|likeness|likest|later.weights|misshapen|bare.model|'
    r'read_maps|draw_points|keyed datasets?|open_picture|'
    r'digest_(?:array|text|file))\b',
    re.IGNORECASE,
)


def missing_files(text: str) -> list[str]:
    """Return the files and folders that a text names and that are not here.

    A path counts from the root of the checkout, from the package or from
    ``docs``; a name without a folder may be that of any file.
    """
    text = ELSEWHERE.sub('', text)
    named = {match.rstrip('.') for match in FILE.findall(text)}
    named |= {match.rstrip('.') for match in FOLDER.findall(text)}
    return sorted(name for name in named if not _exists(name))


def _exists(name):
    if '/' not in name and name in _file_names():
        return True
    folders = (ROOT, ROOT / 'clouds_mmseg', ROOT / 'docs')
    return any((folder / name).exists() for folder in folders)


@cache
def _file_names():
    folders = ('clouds_mmseg', 'configs', 'docs', 'tests', 'tools')
    return {
        path.name for name in folders for path in (ROOT / name).rglob('*.*')
    }


@cache
def options_of_tools() -> dict[str, set[str]]:
    """Tool -> its long options."""
    return {
        tool: {
            word
            for line in lines
            for word in re.findall(r'--[\w-]+', line.split('=')[0])
        }
        | {'--help'}
        for tool, lines in tool_options().items()
    }


@cache
def scripts_of_commands() -> dict[str, str]:
    """Sub-command of ``clouds`` -> the script that runs the same."""
    found = {}
    for path in (ROOT / 'tools').glob('*.py'):
        used = re.search(
            r'from clouds_mmseg_cli.(\w+) import main\n', path.read_text()
        )
        if used:
            found[used[1]] = f'tools/{path.name}'
    return found


def unknown_options(text: str) -> list[str]:
    """Return options that no tool has, or not the tool in their command."""
    tools = options_of_tools()
    scripts = scripts_of_commands()
    text = re.sub(r'\\\n\s*', ' ', text)
    wrong = set()
    spans = re.findall(r'`([^`]+)`', FENCE.sub('', text))
    for _, block in FENCE.findall(text):
        spans += block.split('\n')
    for span in spans:
        span = span.split(' # ')[0]
        for command, script in scripts.items():
            span = re.sub(rf'(?<!\w)clouds {command}\b', script, span)
        head, tool, rest = (
            re.split(r'tools/(\w+\.py)', span, maxsplit=1)[:3]
            if re.search(r'tools/\w+\.py', span)
            else (span, None, '')
        )
        for option in re.findall(r'(?<![\w-])--[a-z][\w-]*', rest):
            if tool in tools and option not in tools[tool]:
                wrong.add(f'{tool} {option}')
        if tool is None and not re.search(r'\b(?:pip|pytest|git)\b', head):
            for option in re.findall(r'(?<![\w-])--[a-z][\w-]*', head):
                known = FOREIGN.union(*tools.values())
                if option not in known:
                    wrong.add(option)
    return sorted(wrong)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', FENCE.sub('', text), re.MULTILINE)
    plain = (re.sub(r'[^\w\- ]', '', line.lower()) for line in headings)
    return {line.strip().replace(' ', '-') for line in plain}


def broken_links(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere in the checkout."""
    broken = []
    for link in LINK.findall(FENCE.sub('', page.read_text())):
        if re.match(r'\w+:', link):
            continue
        name, _, anchor = link.partition('#')
        target = page.parent / name if name else page
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text())
        ):
            broken.append(link)
    return broken


def unknown_imports(text: str) -> list[str]:
    """Return names that a page's Python takes from us and that are not."""
    unknown = []
    for language, block in FENCE.findall(text):
        if language != 'python':
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(block))):
            if not isinstance(node, ast.ImportFrom):
                continue
            if (node.module or '').split('.')[0] != 'clouds_mmseg':
                continue
            path = ROOT.joinpath(*node.module.split('.'))
            files = [path.with_suffix('.py'), path / '__init__.py']
            source = ''.join(f.read_text() for f in files if f.is_file())
            unknown += [
                f'{node.module}.{alias.name}'
                for alias in node.names
                if not re.search(rf'\b{alias.name}\b', source)
            ]
    return unknown


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    assert missing_files(text) == []
    assert unknown_options(text) == []
    assert broken_links(page) == []
    assert unknown_imports(text) == []


def test_the_words_are_those_of_the_field():
    found = {}
    for folder in ('clouds_mmseg', 'configs', 'docs', 'tests', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.suffix not in ('.py', '.md', '.sh') or path == HERE:
                continue
            if words := COINED.findall(path.read_text()):
                found[path.relative_to(ROOT).as_posix()] = words
    assert found == {}
    assert COINED.findall('Mended memories, and a plain formulation') == [
        'Mended',
        'memories',
        'plain formulation',
    ]


def test_every_registered_class_is_in_the_api_pages():
    listed = ''.join(
        page.read_text() for page in (ROOT / 'docs/api').glob('*.md')
    )
    # DGConcatDataset is registered as ConcatDataset.
    names = [name for kind in registered().values() for name in kind]
    missing = [
        name
        for name in names
        if not re.search(rf'^::: .*\.(?:DG)?{name}$', listed, re.MULTILINE)
    ]
    assert len(names) > 40
    assert missing == []


def test_what_does_not_exist_is_found(tmp_path):
    text = 'See `tools/trane.py`, `models/no_head.py`, configs/cloud/ and x.py'
    assert missing_files(text) == [
        'configs/cloud/',
        'models/no_head.py',
        'tools/trane.py',
        'x.py',
    ]
    text = (
        '`tools/train.py --resum`, `--launcherr`\n'
        '```bash\npython tools/test.py A \\\n  --tta --set x\n'
        'clouds publish a b --tta --trust\n```\n'
    )
    assert unknown_options(text) == [
        '--launcherr',
        'publish_model.py --tta',
        'test.py --set',
        'train.py --resum',
    ]
    page = tmp_path / 'a.md'
    page.write_text('# A b, `c`\n[1](#a-b-c) [2](#a) [3](b.md) [4](a.md)')
    assert broken_links(page) == ['#a', 'b.md']
    text = '```python\nfrom clouds_mmseg.utils.errors import Nothing\n```\n'
    assert unknown_imports(text) == ['clouds_mmseg.utils.errors.Nothing']
