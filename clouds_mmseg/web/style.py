"""Style sheet and scripts of the page. Classes of ours begin with ``cl-``."""

# Gradio writes each rule twice, the second time for its own container alone
# and with precedence over the first: what changes is a variable.
STYLE = """
.gradio-container { max-width: 1400px !important; }
.cl-models { display: grid; gap: 1.5rem; }
@media (min-width: 900px) {
  .cl-models.cl-two { grid-template-columns: 1fr 1fr; }
}
.cl-models figure { margin: 0; min-width: 0; }
.cl-models figcaption { margin-bottom: .4rem; overflow-wrap: anywhere; }
.cl-stack { position: relative; line-height: 0; }
.cl-stack img {
  width: 100%; height: auto; display: block; margin: 0;
  border-radius: 6px;
}
.cl-stack .cl-map {
  position: absolute; inset: 0; height: 100%; image-rendering: pixelated;
}
.cl-map.cl-colors {
  opacity: var(--clouds-opacity, .5);
  display: var(--clouds-colors, block) !important;
}
.cl-map.cl-confidence { display: var(--clouds-confidence, none) !important; }
.cl-scale { display: var(--clouds-scale, none) !important; }
.cl-scale { align-items: center; gap: .5rem; margin-top: .4rem; }
.cl-scale i {
  flex: 1; height: .7rem; border-radius: 3px;
  background: linear-gradient(to right, #000, #fff);
  border: 1px solid var(--border-color-primary);
}
ul.cl-legend {
  list-style: none; margin: .6rem 0 0; padding: 0; display: grid;
  grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr));
  gap: .15rem 1rem;
}
.cl-legend li {
  display: flex; align-items: center; gap: .5rem; margin: 0; padding: 0;
}
.cl-legend i {
  width: 1rem; height: 1rem; border-radius: 3px; flex: none;
  border: 1px solid var(--border-color-primary);
}
.cl-legend b { font-weight: normal; flex: 1; overflow-wrap: anywhere; }
.cl-legend span { font-variant-numeric: tabular-nums; }
.cl-quiet { opacity: .75; font-size: .9rem; }
.cl-notes { margin: 1rem 0 0; }
.cl-links { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .7rem; }
.cl-links a {
  padding: .3rem .7rem; border-radius: 6px; text-decoration: none;
  border: 1px solid var(--border-color-primary);
  color: var(--body-text-color);
}
.cl-links a:hover { background: var(--background-fill-secondary); }
.cl-error {
  padding: .8rem 1rem; border-radius: 6px; border: 1px solid #b91c1c;
  border-left-width: 6px; overflow-wrap: anywhere;
}
.cl-hint {
  padding: 3rem 1rem; text-align: center; border-radius: 6px;
  border: 1px dashed var(--border-color-primary);
  color: var(--body-text-color-subdued);
}
.cl-examples {
  display: grid; gap: .5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr));
}
.cl-examples button {
  padding: 0; margin: 0; border: 1px solid var(--border-color-primary);
  border-radius: 6px; overflow: hidden; cursor: pointer;
  background: var(--background-fill-primary); line-height: 1.6;
  color: var(--body-text-color); font-size: .85rem;
}
.cl-examples button:hover, .cl-examples button:focus-visible {
  outline: 2px solid var(--color-accent);
}
.cl-examples img {
  width: 100%; aspect-ratio: 2; object-fit: cover; margin: 0; display: block;
}
"""
# The downloaded overlay has the opacity that is seen.
SCRIPT = """
() => {
  const root = document.documentElement;
  document.addEventListener('click', event => {
    const link = event.target.closest('a[data-overlay]');
    if (!link) return;
    const opacity = root.style.getPropertyValue('--clouds-opacity');
    link.href = link.dataset.overlay + '?opacity=' + (opacity || '0.5');
  });
}
"""
SET_OPACITY = """
value => {
  document.documentElement.style.setProperty('--clouds-opacity', value / 100);
  return [];
}
"""
SET_VIEW = """
value => {
  const style = document.documentElement.style;
  const confidence = value === 'confidence';
  style.setProperty('--clouds-colors', value === 'classes' ? 'block' : 'none');
  style.setProperty('--clouds-confidence', confidence ? 'block' : 'none');
  style.setProperty('--clouds-scale', confidence ? 'flex' : 'none');
  return [];
}
"""
CHOOSE_EXAMPLE = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('example', {index: Number(button.dataset.index)});
});
"""
