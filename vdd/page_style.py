"""The look of a report's page: one style sheet, light and dark by the reader's setting, for screens, phones and paper.

Colours are told apart by the colour-blind too (and by shape); text has a contrast of 4.5 at least, marks of 3.

Knows: CSS. Does not know: what is shown.
"""

from __future__ import annotations

TRACES = """
.traces { display: grid; gap: 1rem; margin: 1rem 0; padding: 0; list-style: none; }
.trace {
  display: grid; gap: 1rem 1.5rem; grid-template-columns: minmax(0, 13rem) minmax(0, 1fr);
  padding: 1rem 1.25rem; border: 1px solid var(--rule); border-radius: 10px; break-inside: avoid;
}
.trace h4 { font-size: .95rem; margin: 0 0 .35rem; overflow-wrap: anywhere; }
.trace p { font-size: .88rem; overflow-wrap: anywhere; }
.trace img { display: block; width: 100%; height: auto; border-radius: 6px; background: var(--raised); }
.trace .wrong { color: var(--down); font-weight: 600; }
.trace .right { color: var(--up); font-weight: 600; }
.pairs { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); }
.pairs { list-style: none; margin: .35rem 0 0; padding: 0; }
.pairs li { font-size: .78rem; line-height: 1.4; min-width: 0; overflow-wrap: anywhere; }
.pairs b { display: block; margin-top: .3rem; font-variant-numeric: tabular-nums; }
.pairs small { display: block; color: var(--faint); font-size: .75rem; font-variant-numeric: tabular-nums; }
@media (max-width: 700px) { .trace { grid-template-columns: minmax(0, 1fr); } .trace > div > img { max-width: 13rem; } }
"""
"""Added where wrong answers are shown with pictures."""

PICTURES = """
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
.pictures { align-items: start; }
.pictures figure { break-inside: avoid; }
.pictures img { display: block; width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
"""
"""Added where an analysis' figures are shown; these are drawn for white paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f5f6f8; --ink: #16181d; --faint: #596273; --rule: #d9dde3; --strong: #9aa3b1;
  --k0: #596273; --k1: #0b62c4; --k2: #b04a06; --k3: #0a7266; --up: #06672f; --down: #b42318;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #13151a; --raised: #1c1f26; --ink: #e7e9ee; --faint: #a3abb9; --rule: #30353f; --strong: #6c7585;
    --k0: #a3abb9; --k1: #6fb1ff; --k2: #f4a261; --k3: #4fd0b4; --up: #5fd38d; --down: #ff9186;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif;
}
.page { max-width: 1280px; margin: 0 auto; padding: 2.5rem clamp(.9rem, 2.5vw, 2.5rem) 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.015em; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .75rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 2.25rem 0 .5rem; }
p { margin: .5rem 0; max-width: 75ch; }
a { color: var(--k1); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--k1); outline-offset: 2px; }
.lead, .note, figcaption small { color: var(--faint); }
.note { font-size: .85rem; max-width: 110ch; }
.summary { font-size: 1.05rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 1rem 0 0; padding: 0; }
section.run { border-top: 1px solid var(--rule); margin-top: 3rem; padding-top: 2rem; }

dl.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 14.5rem), 1fr)); gap: .75rem 1.5rem;
  margin: 1.25rem 0; padding: 1rem 1.25rem; background: var(--raised); border-radius: 10px;
}
dl.facts div { min-width: 0; }
dl.facts dt { color: var(--faint); font-size: .8rem; }
dl.facts dd { margin: 0; font-size: .93rem; overflow-wrap: anywhere; }

.scroll { overflow-x: auto; margin: 1rem 0 .5rem; border: 1px solid var(--rule); border-radius: 10px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; }
table { font-size: .8rem; font-variant-numeric: tabular-nums; }
td:last-child, thead th:last-child { padding-right: .8rem; }
caption span { position: sticky; left: .8rem; display: inline-block; max-width: min(60rem, 100vw - 4rem); }
caption { text-align: left; padding: .7rem .8rem .3rem; font-weight: 600; font-size: .95rem; }
th, td { padding: .34rem .36rem; white-space: nowrap; text-align: right; border-top: 1px solid var(--rule); }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; border-top: 0; white-space: normal; }
th:first-child { text-align: left; padding-left: .8rem; position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 600; }
tbody tr:hover > * { background: var(--raised); }
td.up { color: var(--up); font-weight: 600; }
td.down { color: var(--down); font-weight: 600; }

.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); }
.stack { display: grid; gap: 1rem; align-content: start; min-width: 0; }
.beside { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); margin-bottom: 1rem; }
@media (min-width: 900px) { .beside { grid-template-columns: minmax(0, 24rem) minmax(0, 1fr); align-items: start; } }
.beside .scroll { margin: 0; }
figure { margin: 0; padding: .9rem 1rem .6rem; border: 1px solid var(--rule); border-radius: 10px; min-width: 0; }
figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .4rem; overflow-wrap: anywhere; }
figcaption small { display: block; font-weight: 400; font-size: .8rem; }
figure svg { display: block; width: 100%; height: auto; max-width: 460px; }
.legend {
  display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; margin: .5rem 0 .75rem;
  font-size: .85rem; color: var(--faint);
}
.legend svg { vertical-align: -2px; margin-right: .35rem; overflow: visible; }

svg text { fill: var(--ink); font-size: 11.5px; font-family: inherit; }
svg text.label { font-size: 10.5px; }
svg text.note { fill: var(--faint); font-size: 10.5px; }
svg text.small { fill: var(--faint); font-size: 9.5px; }
svg text.named { font-size: 10.5px; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
svg text.value { font-variant-numeric: tabular-nums; }
svg .k0 { --mark: var(--k0); } svg .k1 { --mark: var(--k1); }
svg .k2 { --mark: var(--k2); } svg .k3 { --mark: var(--k3); }
svg .mark { fill: var(--mark); stroke: var(--mark); stroke-width: 1.6; }
svg .hollow { fill: var(--paper); }
svg .interval { stroke: var(--mark); stroke-width: 2; }
svg .through { stroke: var(--mark); stroke-width: 1.2; fill: none; opacity: .7; }
svg .dash1 { stroke-dasharray: 6 3; }
svg .dash2 { stroke-dasharray: 1.5 3; }
svg .bar { fill: var(--mark); opacity: .28; }
svg .count { fill: var(--strong); opacity: .7; }
svg .pale .mark { opacity: .4; }
svg .pale .bar { opacity: .12; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis, svg .leader { stroke: var(--strong); stroke-width: 1; }
svg .reference { stroke: var(--strong); stroke-width: 1.4; }
svg .equality, svg .front { stroke: var(--faint); stroke-width: 1.2; stroke-dasharray: 4 4; fill: none; }

details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
code { font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
table.signatures th:last-child { text-align: left; }
table.signatures td { text-align: left; white-space: normal; min-width: 13rem; }
dl.terms { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .4rem 1.25rem; font-size: .9rem; }
dl.terms dt { font-weight: 600; }
dl.terms dd { margin: 0; max-width: 75ch; }

@media (max-width: 560px) {
  dl.facts { grid-template-columns: 1fr 1fr; }
  th:first-child { white-space: normal; min-width: 8rem; max-width: 9rem; overflow-wrap: anywhere; }
  figure { padding: .7rem .5rem .4rem; }
  svg text.label { font-size: 11px; }
  svg text.note, svg text.named { font-size: 11.5px; }
  dl.terms { grid-template-columns: 1fr; gap: .1rem; }
  dl.terms dd { margin-bottom: .6rem; }
}

@page { size: A4 landscape; margin: 12mm; }
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --raised: #ffffff; --ink: #000000; --faint: #444b57; --rule: #c9ced6; --strong: #8a93a1;
    --k0: #444b57; --k1: #0b62c4; --k2: #b04a06; --k3: #0a7266; --up: #06672f; --down: #b42318;
  }
  body { font-size: 10.5pt; print-color-adjust: exact; }
  .page { max-width: none; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; border: 0; }
  table { font-size: 7.4pt; }
  th, td { padding: .18rem .3rem; }
  th:first-child { position: static; }
  figure, tr, dl.facts { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  .figures { grid-template-columns: repeat(3, 1fr); }
  .figures.small { grid-template-columns: repeat(4, 1fr); }
  .beside { grid-template-columns: 22rem minmax(0, 1fr); align-items: start; break-inside: avoid; }
}
"""
