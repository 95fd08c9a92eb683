"""The page: its numbers, what it may load, what it escapes."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from tiny_run import CLASSES

from clouds_mmseg.report import write_report
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg_cli.command import main

VOID = {'meta', 'img', 'input', 'br', 'hr', 'link', 'wbr', 'path', 'rect'}


class Page(HTMLParser):
    """Elements of a page, its tables, and its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.tables, self.open, self.texts = [], [], [], []
        self.row = None
        self.feed(path.read_text(encoding='utf-8'))
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'table':
            self.tables.append(dict(attributes=attributes, rows=[]))
        elif tag == 'tr':
            self.tables[-1]['rows'].append([])
        elif tag in ('td', 'th'):
            value = attributes.get('data-v')
            self.tables[-1]['rows'][-1].append([value, ''])

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append((tuple(self.open), text))
        if {'td', 'th'} & set(self.open):
            self.tables[-1]['rows'][-1][-1][1] += text

    def of(self, tag):
        return [
            attributes for name, attributes in self.elements if name == tag
        ]

    def table(self, **attributes):
        (found,) = (
            table['rows']
            for table in self.tables
            if attributes.items() <= table['attributes'].items()
        )
        return found

    def text(self):
        return ' '.join(
            text
            for within, text in self.texts
            if not {'script', 'style'} & set(within)
        )

    def data(self):
        return json.loads(
            next(
                text
                for within, text in self.texts
                if within[-1:] == ('script',) and text.startswith('{')
            )
        )


@pytest.fixture(scope='module')
def pair(seeds, tmp_path_factory):
    """A report of both runs."""
    out = tmp_path_factory.mktemp('pages') / 'sub' / 'pair.html'
    written = write_report([seeds / f'seed{i}/tiny' for i in (0, 1)], out)
    return written, Page(out)


def results_of(seeds, seed):
    path = seeds / f'seed{seed}' / 'tiny' / 'results.json'
    return json.loads(path.read_text())


def test_the_numbers_are_those_of_the_results(pair, seeds):
    _, page = pair
    head, *rows = page.table(id='domains')
    assert [text for _, text in head] == 'run mean day dusk protocol'.split()
    for seed, row in enumerate(rows):
        results = results_of(seeds, seed)
        values = [results['mean']['mIoU']]
        values += [
            results['domains'][d]['metrics']['mIoU'] for d in ('day', 'dusk')
        ]
        assert row[0][1] == f'seed{seed}/tiny'
        assert [float(value) for value, _ in row[1:4]] == values
        assert [text for _, text in row[1:4]] == [f'{v:.2f}' for v in values]
        rows = page.table(**{'data-run': f'seed{seed}/tiny'})
        for name, cells in zip(CLASSES, rows[1:4], strict=True):
            assert cells[0][1].strip() == name
            found = [float(value) if value else None for value, _ in cells[1:]]
            by_domain = [
                results['domains'][d]['class_iou'][name]
                for d in ('day', 'dusk')
            ]
            # The only target is dusk.
            assert found == [by_domain[1], *by_domain]


def test_matrices_and_curves_are_those_of_the_run(pair, seeds):
    _, page = pair
    data = page.data()
    for seed, stored in enumerate(data['confusion']):
        results = results_of(seeds, seed)
        assert stored['names'] == list(CLASSES)
        assert list(stored['domains']) == ['day', 'dusk']
        for domain, matrix in stored['domains'].items():
            assert matrix == results['domains'][domain]['confusion']
    loss = data['plots']['curve-0']
    (log,) = (seeds / 'seed0').glob('tiny/*/vis_data/scalars.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    want = [(e['step'], f'{e["loss"]:.4g}') for e in logged if 'loss' in e]
    assert loss[0]['name'] == 'seed0/tiny'
    assert [(p[2], p[3]) for p in loss[0]['points']] == want
    assert len(want) >= 3
    # Further right is later, higher up is more.
    x, y = zip(*(p[:2] for p in loss[0]['points']), strict=True)
    assert list(x) == sorted(x)
    values = [float(p[3]) for p in loss[0]['points']]
    assert y.index(min(y)) == values.index(max(values))
    assert 'mIoU in validation' in page.text()


def test_the_seeds_are_one_group(pair, seeds):
    _, page = pair
    means = [results_of(seeds, i)['mean']['mIoU'] for i in (0, 1)]
    rows = [
        row
        for table in page.tables
        for row in table['rows']
        if len(row) > 2 and row[2][1] == '0, 1'
    ]
    ((name, runs, _, mean, *_),) = rows
    assert (name[1], runs[1]) == ('tiny', '2')
    assert float(mean[0]) == pytest.approx(sum(means) / 2)
    deviation = abs(means[0] - means[1]) / 2**0.5
    assert mean[1] == f'{sum(means) / 2:.2f} ± {deviation:.2f}'
    assert 'Left out are the seed' in page.text()


def test_nothing_is_loaded_from_elsewhere(pair):
    written, page = pair
    for tag, attributes in page.elements:
        assert tag not in ('link', 'iframe', 'object', 'embed', 'base')
        for name in ('src', 'href', 'srcset', 'xlink:href', 'data', 'action'):
            value = attributes.get(name)
            if value is not None:
                assert value.startswith(('#', 'data:image/')), (tag, value)
        assert not [name for name in attributes if name.startswith('on')]
    text = written.path.read_text()
    assert '@import' not in text and 'xmlns' not in text
    assert set(re.findall(r'url\(["\']?(.)', text)) <= {'#'}
    (policy,) = (
        m['content']
        for m in page.of('meta')
        if m.get('http-equiv') == 'Content-Security-Policy'
    )
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_it_can_be_read_by_everyone(pair):
    written, page = pair
    assert page.of('html') == [dict(lang='en')]
    assert all(image['alt'] for image in page.of('img'))
    assert all(
        svg.get('aria-label') or svg.get('aria-hidden')
        for svg in page.of('svg')
    )
    for attributes in page.of('input'):
        assert attributes['aria-label']
    ids = [a['id'] for _, a in page.elements if 'id' in a]
    assert len(ids) == len(set(ids))
    links = [a['href'][1:] for a in page.of('a')]
    assert set(links) <= set(ids) and 'worst' in links
    head = page.table(id='domains')[0]
    assert len(page.of('button')) > len(head)
    assert any(m.get('name') == 'viewport' for m in page.of('meta'))
    text = written.path.read_text()
    for query in ('prefers-color-scheme: dark', 'print', 'max-width: 40rem'):
        assert query in text
    assert 'function sortTable' in text and 'aria-sort' in text
    assert len(page.of('img')) == written.pictures
    assert written.size == written.path.stat().st_size < 2_000_000


def test_pictures_and_pseudo_labels_are_there(pair, seeds):
    _, page = pair
    names = {image['alt'] for image in page.of('img')}
    assert 'error of seed1/tiny, dusk, 000' in names
    assert 'label, day, 001' in names
    assert 'refined label, iteration 4' in names
    kinds = [d['data-kind'] for d in page.of('div') if 'data-kind' in d]
    assert kinds[:4] == [
        'image',
        'label',
        'prediction of seed0/tiny',
        'error of seed0/tiny',
    ]
    assert page.data()['plots']['teacher-0'][1]['points'][0][2:] == [2, '30.5']


def test_the_worst_images_are_ranked(pair, seeds):
    _, page = pair
    records = json.loads((seeds / 'seed0/tiny/images.json').read_text())
    day = [r for r in records['images'] if r['domain'] == 'day']
    day.sort(key=lambda record: record['mIoU'])
    rows = [
        row
        for table in page.tables
        for row in table['rows']
        if len(row) == 4 and row[0][1] == 'day'
    ]
    assert [row[1][1] for row in rows[:3]] == [r['name'] for r in day]
    assert float(rows[0][2][0]) == day[0]['mIoU']


def test_text_of_files_is_escaped(copied, change, tmp_path):
    evil = '</script><script>alert(1)</script><img src=x onerror=alert(2)>'
    results = json.loads((copied / 'results.json').read_text())
    report = results['domains'].pop('dusk')
    report['class_iou'] = {**report['class_iou'], evil: 12.0}
    size = range(4)
    report['confusion'] = [[i * j for i in size] for j in size]
    change(
        domains={evil: report},
        classes=[*CLASSES, evil],
        warnings=[evil],
        protocol=r'$\frac{1}{0$',
        command=evil,
        device=evil,
        config=dict(path=evil, text=f'a = 1  # {evil}\n'),
    )
    (scalars,) = copied.glob('*/vis_data/scalars.json')
    with scalars.open('a') as stream:
        for step in (5, 6):
            entry = {f'{evil}/mIoU': 1.0, 'mean_mIoU': 3.0, 'step': step}
            stream.write(json.dumps(entry) + '\n')
    out = tmp_path / 'evil.html'
    written = write_report([copied], out, title=evil)
    page = Page(out)
    assert len(page.of('script')) == 2
    assert not [i for i in page.of('img') if not i['src'].startswith('data:')]
    assert page.text().count('alert(1)') >= 7
    assert page.data()['confusion'][0]['names'][-1] == evil
    assert any(evil in note for note in written.notes)


def test_an_unfinished_run_shows_what_there_is(copied, tmp_path, capsys):
    for path in (*copied.rglob('results.json'), *copied.glob('iter_*.pth')):
        path.unlink()
    shutil.rmtree(next(copied.glob('*/pictures')))
    (scalars,) = copied.glob('*/vis_data/scalars.json')
    lines = scalars.read_text().splitlines()
    kept = [line for line in lines if json.loads(line)['step'] < 4]
    # Killed within a line.
    scalars.write_text('\n'.join([*kept, lines[-1][:30]]))
    out = tmp_path / 'half.html'
    main(['report', str(copied), '--out', str(out)])
    shown = capsys.readouterr().out
    assert 'note: tiny: Unfinished: 3 of 4 iterations are done.' in shown
    assert 'the run was killed while it wrote it' in shown
    assert re.search(r'half\.html: 0\.\d MB, 1 run, 0 pictures\n', shown)
    page = Page(out)
    assert 'unfinished: 3 of 4 iterations' in page.text()
    assert len(page.data()['plots']['curve-0'][0]['points']) == 3
    assert not [t for t in page.tables if t['attributes'].get('id')]


def test_without_pictures(copied, tmp_path):
    written = write_report(
        [copied], tmp_path / 'a.html', pictures_per_domain=0
    )
    assert written.pictures == 0
    with pytest.raises(UserError, match='at least 0, got -1'):
        write_report([copied], tmp_path / 'a.html', pictures_per_domain=-1)


def test_where_it_cannot_be_written(copied, tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder.html').mkdir()
    for out, message in (
        ('results.json', 'ends with .html'),
        ('folder.html', 'is a folder'),
        ('file/a.html', 'cannot be written: no files can be created in'),
    ):
        with pytest.raises(UserError, match=message):
            write_report([copied], tmp_path / out)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'file',
        'folder.html',
        'tiny',
    ]


# Uses the page as a reader does, and leaves what happened in it.
USE = """
const found = {};
const fire = (element, name, init) =>
  element.dispatchEvent(new Event(name, {bubbles: true, ...init}));
const table = document.getElementById('domains');
const names = () =>
  [...table.tBodies[0].rows].map((r) => r.cells[0].textContent);
const titles = [...table.tHead.rows[0].cells];
const title = titles.find((c) => c.textContent === 'day');
title.querySelector('button').click();
found.highest = names();
found.order = title.getAttribute('aria-sort');
title.querySelector('button').click();
found.lowest = names();
const stage = document.querySelector('#pictures .stage');
const range = document.querySelector('#pictures figure input');
range.value = 20;
fire(range, 'input');
found.cut = stage.style.getPropertyValue('--cut');
const right = document.querySelector('#pictures select[data-side=right]');
right.value = 'error of seed1/tiny';
fire(right, 'change');
found.right = stage.querySelector('.right').dataset.kind;
found.left = stage.querySelector('.left').dataset.kind;
const plot = document.querySelector('.stage-plot');
plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'End'}));
found.tip = plot.querySelector('.tip').textContent;
const time = document.querySelector('.steps input');
time.value = 0;
fire(time, 'input');
found.step = document.querySelector('.step.now').dataset.title;
const run = document.getElementById('confusion-run');
run.value = 1;
fire(run, 'change');
found.caption = document.getElementById('confusion-table').caption.textContent;
document.body.append(Object.assign(document.createElement('pre'),
  {id: 'found', textContent: JSON.stringify(found)}));
"""


def test_a_browser_runs_the_script(pair, seeds, tmp_path):
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('needs chromium, which apt-get install chromium brings')
    written, page = pair
    digest = base64.b64encode(hashlib.sha256(USE.encode()).digest()).decode()
    text = written.path.read_text()
    # The policy stays in force, and allows this script as well.
    text = text.replace('script-src ', f"script-src 'sha256-{digest}' ", 1)
    text = text.replace('</body>', f'<script>{USE}</script></body>')
    used = tmp_path / 'used.html'
    used.write_text(text)
    done = subprocess.run(
        [
            browser,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            f'--user-data-dir={tmp_path}',
            '--dump-dom',
            used.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    used.write_text(done.stdout)
    live = Page(used)
    assert live.of('html') == [{'lang': 'en', 'class': 'js'}]
    rows = live.table(id='confusion-table')
    matrix = page.data()['confusion'][1]['domains']['day']
    assert rows[1][0][1] == CLASSES[0]
    share = 100 * matrix[0][0] / sum(matrix[0])
    assert float(rows[1][1][1]) == pytest.approx(share, abs=0.51)
    found = json.loads(
        next(t for w, t in live.texts if w[-1:] == ('pre',) and t[:2] == '{"')
    )
    values = {
        f'seed{i}/tiny': results_of(seeds, i)['domains']['day']['metrics']
        for i in (0, 1)
    }
    order = sorted(values, key=lambda name: values[name]['mIoU'])
    loss = page.data()['plots']['curve-0']
    last = loss[0]['points'][-1]
    assert found == dict(
        highest=order[::-1],
        order='descending',
        lowest=order,
        cut='20%',
        left='image',
        right='error of seed1/tiny',
        tip=f'iteration {last[2]}'
        + ''.join(f'{c["name"]}: {c["points"][-1][3]}' for c in loss),
        step='iteration 2',
        caption='seed1/tiny, day: percent of the pixels of each label',
    )
