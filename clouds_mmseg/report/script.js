'use strict';
const root = document.documentElement;
root.classList.add('js');
const data = JSON.parse(document.getElementById('data').textContent);

function make(tag, text, names) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (names) element.className = names;
  return element;
}

// Tables: a click on a title sorts by its column, a second one backwards.
function cellValue(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent.trim();
  const value = text === '' || text === '-' ? NaN : Number(text);
  return {text, value, none: text === '' || text === '-'};
}

function sortTable(button) {
  const title = button.closest('th');
  const table = title.closest('table');
  const column = title.cellIndex;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [row, cellValue(row, column)]);
  const numeric = rows.every(([, v]) => v.none || !Number.isNaN(v.value));
  const before = title.getAttribute('aria-sort');
  // Numbers begin with the highest, names with A.
  const first = numeric ? 'descending' : 'ascending';
  const second = numeric ? 'ascending' : 'descending';
  const order = before === first ? second : first;
  const sign = order === 'ascending' ? 1 : -1;
  rows.sort(([, a], [, b]) => {
    // What has no value stays at the end.
    if (a.none || b.none) return Number(a.none) - Number(b.none);
    if (numeric) return sign * (a.value - b.value);
    return sign * a.text.localeCompare(b.text, 'en', {numeric: true});
  });
  for (const other of table.tHead.rows[0].cells) {
    other.removeAttribute('aria-sort');
  }
  title.setAttribute('aria-sort', order);
  body.append(...rows.map(([row]) => row));
}

for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => sortTable(button));
}

// Curves: the values at the iteration below the pointer.
for (const plot of document.querySelectorAll('.stage-plot')) {
  const curves = data.plots[plot.dataset.plot];
  const svg = plot.querySelector('svg');
  const tip = make('div', undefined, 'tip');
  tip.hidden = true;
  tip.setAttribute('role', 'status');
  plot.append(tip);
  const marks = document.createElementNS(svg.namespaceURI, 'g');
  svg.append(marks);
  const positions = curves.flatMap((c) => c.points.map((p) => p[0]));
  const stops = [...new Set(positions)].sort((a, b) => a - b);
  let at = 0;

  function show(index) {
    at = Math.max(0, Math.min(stops.length - 1, index));
    const x = stops[at];
    marks.replaceChildren();
    tip.replaceChildren();
    let title = '';
    for (const curve of curves) {
      const point = curve.points.find((p) => p[0] === x);
      if (!point) continue;
      title = `iteration ${point[2]}`;
      const dot = document.createElementNS(svg.namespaceURI, 'circle');
      dot.setAttribute('cx', point[0]);
      dot.setAttribute('cy', point[1]);
      dot.setAttribute('r', 5);
      dot.style.fill = `var(--series-${curve.color})`;
      marks.append(dot);
      tip.append(make('div', `${curve.name}: ${point[3]}`));
    }
    tip.prepend(make('b', title));
    tip.hidden = false;
    const box = svg.viewBox.baseVal;
    const left = (x / box.width) * plot.clientWidth;
    const space = plot.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(space, left + 12))}px`;
  }

  function hide() {
    tip.hidden = true;
    marks.replaceChildren();
  }

  plot.addEventListener('pointermove', (event) => {
    const area = svg.getBoundingClientRect();
    const box = svg.viewBox.baseVal;
    const x = ((event.clientX - area.left) / area.width) * box.width;
    let best = 0;
    stops.forEach((stop, i) => {
      if (Math.abs(stop - x) < Math.abs(stops[best] - x)) best = i;
    });
    show(best);
  });
  plot.addEventListener('pointerleave', hide);
  plot.addEventListener('blur', hide);
  plot.addEventListener('focus', () => show(at));
  plot.addEventListener('keydown', (event) => {
    const moves = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: 1e9};
    if (event.key in moves) {
      event.preventDefault();
      show(moves[event.key]);
    } else if (event.key === 'Escape') {
      hide();
    }
  });
}

// Pictures: two layers of an image, the right one cut at the divider.
function chooseLayers(section) {
  const [left, right] = section.querySelectorAll('select[data-side]');
  for (const stage of section.querySelectorAll('.stage')) {
    const layers = [...stage.children];
    // A run that did not draw this image shows the image itself.
    const find = (kind) =>
      layers.find((layer) => layer.dataset.kind === kind) ?? layers[0];
    for (const layer of layers) layer.classList.remove('left', 'right');
    const under = find(left.value);
    const over = find(right.value);
    under.classList.add('left');
    if (over !== under) over.classList.add('right');
    // The right one has to lie above the left one.
    for (const layer of layers) layer.style.zIndex = layer === over ? 1 : 0;
  }
}

for (const section of document.querySelectorAll('.compare-images')) {
  for (const select of section.querySelectorAll('select[data-side]')) {
    select.addEventListener('change', () => chooseLayers(section));
  }
  chooseLayers(section);
  for (const figure of section.querySelectorAll('figure.compare')) {
    const stage = figure.querySelector('.stage');
    const range = figure.querySelector('input');
    const cut = () => stage.style.setProperty('--cut', `${range.value}%`);
    range.addEventListener('input', cut);
    const drag = (event) => {
      if (event.type === 'pointermove' && !event.buttons) return;
      const area = stage.getBoundingClientRect();
      range.value = ((event.clientX - area.left) / area.width) * 100;
      cut();
    };
    stage.addEventListener('pointerdown', drag);
    stage.addEventListener('pointermove', drag);
    stage.addEventListener('dragstart', (event) => event.preventDefault());
    cut();
  }
}

// Pseudo-labels over time: one iteration at once.
for (const box of document.querySelectorAll('.steps')) {
  const steps = [...box.querySelectorAll('.step')];
  const range = box.querySelector('input');
  const output = box.querySelector('output');
  const show = () => {
    steps.forEach((s, i) => s.classList.toggle('now', i === +range.value));
    output.textContent = steps[range.value].dataset.title;
    range.setAttribute('aria-valuetext', output.textContent);
  };
  range.addEventListener('input', show);
  show();
}

// Confusion matrices: one at once, of a run and a domain.
const matrix = document.getElementById('confusion-table');
if (matrix) {
  const run = document.getElementById('confusion-run');
  const domain = document.getElementById('confusion-domain');
  const unit = document.getElementById('confusion-unit');

  function listDomains() {
    const before = domain.value;
    const names = Object.keys(data.confusion[run.value].domains);
    domain.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(before)) domain.value = before;
  }

  function draw() {
    const {names, domains} = data.confusion[run.value];
    const rows = domains[domain.value];
    const columns = names.map((_, j) => rows.reduce((s, r) => s + r[j], 0));
    const head = make('tr');
    head.append(make('th', 'label \u2193 prediction \u2192'));
    for (const name of names) {
      const title = make('th', name);
      title.scope = 'col';
      head.append(title);
    }
    const body = rows.map((row, i) => {
      const line = make('tr');
      const title = make('th', names[i]);
      title.scope = 'row';
      line.append(title);
      const total = row.reduce((sum, count) => sum + count, 0);
      row.forEach((count, j) => {
        const all = unit.value === 'column' ? columns[j] : total;
        const share = all ? (100 * count) / all : 0;
        let text = all ? share.toFixed(share && share < 10 ? 1 : 0) : '-';
        if (all && count === 0) text = '';
        const cell = make('td', text, i === j ? 'shade diagonal' : 'shade');
        cell.style.setProperty('--v', (share * 2).toFixed(1));
        cell.title = `${names[i]} predicted as ${names[j]}: ` +
          `${count.toLocaleString('en')} pixels`;
        line.append(cell);
      });
      return line;
    });
    matrix.tHead.replaceChildren(head);
    matrix.tBodies[0].replaceChildren(...body);
    matrix.caption.firstChild.textContent = `${run.selectedOptions[0].text}, ` +
      `${domain.value}: ${unit.selectedOptions[0].text}`;
  }

  run.addEventListener('change', () => { listDomains(); draw(); });
  domain.addEventListener('change', draw);
  unit.addEventListener('change', draw);
  listDomains();
  draw();
}

for (const button of document.querySelectorAll('.copy')) {
  button.addEventListener('click', () => {
    const text = document.getElementById(button.dataset.copies);
    getSelection().selectAllChildren(text);
    // The newer interface is refused to pages that were opened as a file.
    const done = document.execCommand('copy');
    button.textContent = done ? 'Copied' : 'Selected';
  });
}

// All of it on paper.
addEventListener('beforeprint', () => {
  for (const box of document.querySelectorAll('details:not([open])')) {
    if (box.dataset.print !== 'no') {
      box.open = true;
      box.dataset.opened = '1';
    }
  }
});
addEventListener('afterprint', () => {
  for (const box of document.querySelectorAll('details[data-opened]')) {
    box.open = false;
    delete box.dataset.opened;
  }
});
