"""What the site needs beyond its pages: files from outside, cross-references.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages of the site. On GitHub
README.md links to ``docs/datasets.md``; as the start page of the site it links
to ``datasets.md``.
"""

import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# File of the checkout -> file of the site.
PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'CITATION.cff': 'CITATION.cff',
    'LICENSE': 'LICENSE',
}
ROLE = re.compile(r':(?:py:)?(?:attr|class|data|exc|func|meth|mod):`([^`]+)`')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the files of the site."""
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding='utf-8')
        if uri.endswith('.md'):
            text = adapt_links(text)
        files.append(File.generated(config, uri, content=text))
    return files


def adapt_links(text: str) -> str:
    """Return a page of the checkout's root with the links of the site."""
    return re.sub(
        r'\]\(([^)#:\s]+)',
        lambda link: f']({PAGES.get(link[1], link[1].removeprefix("docs/"))}',
        text,
    )


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Return a page of docs/ with adapted links to files above docs/."""
    return re.sub(
        r'\]\(((?:\.\./)+)([A-Z]\w+(?:\.\w+)?)',
        lambda link: f']({link[1][3:]}{PAGES.get(link[2], link[2])}',
        markdown,
    )


class Roles(griffe.Extension):
    """Turns ``:class:`~package.module.Name``` of docstrings into links."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Adapt the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(
                lambda role: _link(role[1], obj), obj.docstring.value
            )


def _link(target: str, obj: griffe.Object) -> str:
    """Return a link, which is plain text where the target has no entry."""
    name = target.lstrip('~.')
    shown = name.rpartition('.')[2] if target.startswith('~') else name
    try:
        first, dot, rest = name.partition('.')
        path = obj.resolve(first) + dot + rest
    except griffe.NameResolutionError:
        path = name
    return f'<autoref optional identifier="{path}">`{shown}`</autoref>'
