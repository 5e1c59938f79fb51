"""The page's style sheet, over Gradio's own: its colours are Gradio's variables, so that light and dark are one sheet.

Knows: CSS. Does not know: what is shown.
"""

from __future__ import annotations

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Helvetica Neue", "Arial", "sans-serif")
"""Of the reader's own machine; nothing is fetched."""

MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

STYLE = """
:root {
  --seen: #0b62c4; --blind: #b04a06; --chosen: #0a7266; --track: #e6e8ec; --wrong: #b42318; --faint: #596273;
}
.dark { --seen: #6fb1ff; --blind: #f4a261; --chosen: #4fd0b4; --track: #333845; --wrong: #ff9186; --faint: #a3abb9; }
.gradio-container { max-width: 1320px !important; margin: 0 auto !important; }
#head h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; letter-spacing: -.015em; font-weight: 700; }
#head p { color: var(--faint); margin: .35rem 0 0; max-width: 150ch; line-height: 1.5; }

.html-container { padding: 0 !important; }
#note:has(.html-container > div:empty), #model-note:has(.html-container > div:empty) { display: none; }
#settings .reset-button { display: none; }
#settings input[type=number] { width: 4.2rem; border-radius: var(--radius-sm) !important; }
#settings .head label { white-space: nowrap; }
#examples .grid-container { padding-top: 2rem; }
#examples .thumbnail-item .caption-label { opacity: 1; }
#examples .grid-wrap { min-height: 0; max-height: none; height: auto; overflow-x: auto; }
#examples .grid-container { grid-template-columns: repeat(8, minmax(0, 1fr)); }
#examples .thumbnail-item { aspect-ratio: auto; height: 100%; display: flex; flex-direction: column; overflow: hidden; }
#examples .thumbnail-item img { width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; }
#examples .caption-label {
  position: static; width: 100%; flex: 1; max-width: none; border: 0; border-radius: 0; box-sizing: border-box;
  padding: .35rem .5rem; font-size: .76rem; line-height: 1.3; white-space: normal; text-align: left;
  background: var(--background-fill-primary);
}
#picture img { width: 100%; height: 100%; object-fit: contain; padding-top: 1.9rem; box-sizing: border-box; }

.vdd-answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .9rem; }
.vdd-card, .vdd-bars {
  border: 1px solid var(--border-color-primary); border-radius: 10px; background: var(--block-background-fill);
  padding: .9rem 1rem; color: var(--body-text-color); box-sizing: border-box; min-width: 0;
}
.vdd-card { display: flex; flex-direction: column; min-height: 12rem; }
.vdd-card h3 { font-size: 1.05rem; margin: 0; font-weight: 700; line-height: 1.35; }
.vdd-card h3 small { display: block; font-size: .82rem; font-weight: 400; }
.vdd-card h3 small, .vdd-card footer, .vdd-card p.text small, .vdd-legend, .faint { color: var(--faint); }
.vdd-card .body { flex: 1; margin: .75rem 0; }
.vdd-card .text { font-size: 1.2rem; line-height: 1.6; overflow-wrap: anywhere; margin: 0; }
.vdd-card .text small { font-size: .85rem; }
.vdd-card .vdd-reliance > div:first-child { font-size: inherit !important; }
.vdd-card .vdd-reliance > div + div { display: none !important; }
.vdd-card p.faint { font-size: .9rem; line-height: 1.5; margin: 0; overflow-wrap: anywhere; }
.vdd-card footer { font-size: .8rem; line-height: 1.4; }
.vdd-legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .8rem; margin: .6rem .1rem .9rem; }
.vdd-legend .pole { white-space: nowrap; }
.vdd-legend .key, .vdd-bars .key { display: inline-block; width: .75rem; height: .75rem; border-radius: 3px; }
.vdd-legend .key, .vdd-bars .key { margin-right: .4rem; vertical-align: -.08em; }
.caret {
  display: inline-block; width: .5ch; height: 1.05em; margin-left: 2px; vertical-align: -.15em;
  background: var(--seen);
}

.vdd-bars { overflow-x: auto; }
.vdd-bars table { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.vdd-bars th, .vdd-bars td { text-align: left; padding: .26rem .9rem .26rem 0; border: 0; font-weight: 400; }
.vdd-bars thead th { font-size: .82rem; color: var(--faint); vertical-align: bottom; padding-bottom: .5rem; }
.vdd-bars tbody th { max-width: 12rem; overflow-wrap: anywhere; }
.vdd-bars tr.chosen th { color: var(--chosen); font-weight: 700; }
.vdd-bars td { width: 28%; }
.vdd-bars .cell { display: flex; align-items: center; gap: .6rem; }
.vdd-bars .cell b { font-weight: 500; min-width: 4.2em; white-space: nowrap; }
.vdd-bars .track { flex: 1; min-width: 2.5rem; height: .7rem; border-radius: 4px; overflow: hidden; }
.vdd-bars .track { background: var(--track); }
.vdd-bars .track i { display: block; height: 100%; border-radius: 4px; }
.vdd-bars .seen { background: var(--seen); }
.vdd-bars .blind { background: var(--blind); }
.vdd-bars .debiased { background: var(--chosen); }
.vdd-bars p { font-size: .8rem; margin: .6rem 0 0; line-height: 1.45; }

.vdd-note {
  margin: 0; padding: .6rem .9rem; border-radius: 8px; border-left: 4px solid var(--border-color-primary);
  background: var(--background-fill-secondary); color: var(--body-text-color); line-height: 1.5;
  overflow-wrap: anywhere;
}
.vdd-note.wrong { border-left-color: var(--wrong); }
@media (max-width: 900px) { #examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
@media (max-width: 640px) {
  #examples .caption-label { font-size: .66rem; padding: .3rem; }
  .vdd-card { min-height: 0; }
  .vdd-bars { padding: .8rem; }
  .vdd-bars thead th { font-size: .74rem; }
  .vdd-bars tbody th { font-size: .82rem; overflow-wrap: normal; }
  .vdd-bars td { width: auto; }
  .vdd-bars th, .vdd-bars td { padding-right: .5rem; vertical-align: top; }
  .vdd-bars .cell { flex-direction: column; align-items: stretch; gap: .15rem; }
  .vdd-bars .track { flex: none; }
}
"""
