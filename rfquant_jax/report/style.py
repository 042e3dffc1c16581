"""The style sheet of the report: light, dark and print, from phones to wide screens."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f7f7f5; --surface: #ffffff; --ink: #1c2128; --muted: #5b6570; --line: #dfe3e7;
  --edge: #1c212826;
  --accent: #1d5fae; --good: #1a7f4b; --bad: #b3303c;
  --cool: #2f74c0; --warm: #e0732b;
  --series-1: #1d5fae; --series-2: #d1495b; --series-3: #c77f12;
  --series-4: #1f8a5f; --series-5: #7a55b0; --series-6: #6a737d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #13161a; --surface: #1a1e24; --ink: #e7eaee; --muted: #9ba6b2; --line: #2f363e;
    --edge: #000000a0;
    --accent: #78b4f7; --good: #5fcf97; --bad: #ff8b94;
    --cool: #3f8ae0; --warm: #d9703a;
    --series-1: #78b4f7; --series-2: #ff8b94; --series-3: #f0b557;
    --series-4: #63d2a4; --series-5: #bb9cf0; --series-6: #a3acb6;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-size: .92em; overflow-wrap: anywhere; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }

header, .layout, footer { max-width: 1220px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 44px; padding-bottom: 8px; }
.eyebrow { margin: 0; color: var(--muted); font-size: .84rem; letter-spacing: .02em; }
h1 {
  margin: .1em 0 .15em; font-size: 2.1rem; line-height: 1.2; letter-spacing: -.015em;
  overflow-wrap: anywhere;
}
.lead { margin: 0; color: var(--muted); overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px 44px; margin: 26px 0 10px; }
.tiles div { min-width: 7rem; }
.tiles dt { color: var(--muted); font-size: .84rem; }
.tiles dd {
  margin: 0; font-size: 1.75rem; font-weight: 650; line-height: 1.25; letter-spacing: -.01em;
}
.tiles dd small {
  display: block; margin: 0; color: var(--muted); font-size: .84rem; font-weight: 400;
  letter-spacing: 0;
}

.layout { display: grid; grid-template-columns: 178px minmax(0, 1fr); gap: 36px; }
nav { font-size: .9rem; }
nav ol { position: sticky; top: 20px; margin: 28px 0 0; padding: 0; list-style: none; }
nav a {
  display: block; padding: 4px 0 4px 12px; color: var(--muted); text-decoration: none;
  border-left: 2px solid var(--line);
}
nav a:hover { color: var(--ink); border-color: var(--accent); }
main { min-width: 0; }
section {
  margin: 22px 0; padding: 24px 28px 26px; background: var(--surface);
  border: 1px solid var(--line); border-radius: 10px;
}
h2 { margin: 0 0 .6em; font-size: 1.28rem; line-height: 1.3; letter-spacing: -.005em; }
h3 { margin: 1.5em 0 .4em; font-size: 1rem; }
h2 + h3 { margin-top: 0; }
p { margin: .5em 0 1em; max-width: 76ch; }
.note { color: var(--muted); font-style: italic; margin: .3em 0 .6em; overflow-wrap: anywhere; }
small { color: var(--muted); font-size: .8rem; }

/* The shadow at the right edge stays while there is more to scroll to; its cover moves along. */
.box {
  overflow-x: auto; max-width: 100%;
  background:
    linear-gradient(to left, var(--surface) 40%, transparent) right / 36px 100% no-repeat local,
    linear-gradient(to left, var(--edge), transparent) right / 12px 100% no-repeat scroll;
}
table {
  min-width: 100%; border-collapse: separate; border-spacing: 0; font-size: .88rem;
  line-height: 1.35;
}
th, td { padding: 8px 12px; text-align: left; vertical-align: top; }
thead th {
  color: var(--muted); font-weight: 500; font-size: .8rem; vertical-align: bottom;
  border-bottom: 1.5px solid var(--line);
}
tbody th { font-weight: 500; white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tr > :first-child { padding-left: 0; position: sticky; left: 0; background: var(--surface); }
tr > :last-child { padding-right: 2px; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; min-width: 5.2em; }
td strong { font-weight: 650; }
td.text { min-width: 11em; }
.stacked td small, .stacked td .badge { display: block; }
td small { font-size: .9em; }
.badge { font-size: .86em; font-weight: 600; white-space: nowrap; }
.badge.better { color: var(--good); }
.badge.worse { color: var(--bad); }
.badge.equal { color: var(--muted); font-weight: 400; }

.heat { min-width: 0; border-spacing: 2px; }
.heat td, .heat thead th { text-align: center; }
.heat thead th { border: 0; padding: 3px 8px; white-space: nowrap; }
.heat thead tr:first-child > :first-child { text-align: left; padding-left: 0; }
.heat thead tr:nth-child(2) > :first-child { position: static; }
.heat thead small { display: block; white-space: nowrap; }
.heat tbody tr > * { border-top: 0; }
.heat tbody th { padding: 4px 14px 4px 0; font-size: .82rem; }
.heat td {
  min-width: 2.9em; padding: 4px 6px; border-radius: 3px; white-space: nowrap;
  font-variant-numeric: tabular-nums; font-size: .84rem;
}
.heat .first { border-left: 12px solid transparent; background-clip: padding-box; }
.heat .cool {
  background-color: color-mix(in srgb, var(--cool) calc(var(--heat) * 62%), transparent);
}
.heat .warm {
  background-color: color-mix(in srgb, var(--warm) calc(var(--heat) * 62%), transparent);
}

.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px 28px;
  margin: 1.1em 0; align-content: start;
}
.facts dt { color: var(--muted); font-size: .8rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
pre {
  margin: .4em 0 1em; padding: 12px 14px; overflow-x: auto; font-size: .84rem; line-height: 1.5;
  background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
}
pre code { overflow-wrap: normal; font-size: inherit; }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--accent); font-size: .9rem; }
details > :not(summary) { margin-top: 10px; }
details pre { max-height: 26rem; overflow: auto; }
.use { padding-left: 1.3em; }
.use li { padding-left: .2em; }

.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px 32px; }
.pair > :only-child { grid-column: 1 / -1; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 16px 24px; }
figure { margin: 12px 0 0; min-width: 0; }
figure svg {
  display: block; width: 100%; max-width: calc(1.08 * var(--width)); height: auto;
  stroke-linejoin: round;
}
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
figcaption { margin-top: 6px; color: var(--muted); font-size: .84rem; max-width: 70ch; }
footer { padding-top: 8px; padding-bottom: 48px; color: var(--muted); font-size: .84rem; }

@media screen and (max-width: 1000px) {
  .layout { grid-template-columns: minmax(0, 1fr); gap: 0; }
  nav ol { position: static; display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 0; }
  nav a { padding: 3px 0; border: 0; color: var(--accent); }
}
@media screen and (max-width: 1150px) {
  .three { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media screen and (max-width: 760px) {
  header, .layout, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 26px; }
  h1 { font-size: 1.6rem; }
  section { padding: 18px 14px 20px; margin: 14px 0; }
  .pair, .three { grid-template-columns: minmax(0, 1fr); }
  .tiles { gap: 12px 28px; }
  .tiles dd { font-size: 1.4rem; }
  th, td { padding: 7px 8px; }
  .facts { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px 18px; }
  .stacked, .stacked tbody { display: block; }
  .stacked thead { display: none; }
  .stacked tr { display: grid; grid-template-columns: 1fr 1fr; gap: 2px 16px; padding: 14px 0; }
  .stacked tbody tr + tr { border-top: 1px solid var(--line); }
  .stacked tbody tr > * { padding: 4px 0; border: 0; text-align: left; white-space: normal; }
  .stacked tr > :first-child { grid-column: 1 / -1; position: static; }
  .stacked tr > :first-child code { font-size: 1.05rem; font-weight: 600; }
  .stacked td::before {
    content: attr(data-label); display: block; color: var(--muted); font-size: .8rem;
  }
  .wide svg { width: calc(.92 * var(--width)); max-width: none; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --surface: #ffffff; --ink: #000000; --muted: #444c55; --line: #c9ced3;
    --edge: transparent;
    --accent: #1d5fae; --good: #12663a; --bad: #982631; --cool: #2f74c0; --warm: #e0732b;
    --series-1: #1d5fae; --series-2: #d1495b; --series-3: #c77f12;
    --series-4: #1f8a5f; --series-5: #7a55b0; --series-6: #6a737d;
  }
  @page { margin: 14mm; }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  header, .layout, footer { max-width: none; padding: 0; }
  .layout { display: block; }
  nav, details:not([open]) { display: none; }
  section { margin: 0; padding: 12px 0; border: 0; border-radius: 0; }
  section { border-top: 1px solid var(--line); }
  h2, h3 { break-after: avoid; }
  tr, figure, .facts > div, pre { break-inside: avoid; }
  thead { display: table-header-group; }
  .box, pre, details pre { overflow: visible; max-height: none; }
  pre, pre code { white-space: pre-wrap; overflow-wrap: anywhere; }
  .facts { grid-template-columns: repeat(4, 1fr); gap: 8px 16px; }
  .pair > .facts { grid-template-columns: repeat(2, 1fr); }
  section p { break-after: avoid; }
  table { font-size: 8pt; }
  code { overflow-wrap: normal; }
  th, td { padding: 3px 5px; }
  thead .number { min-width: 0; }
  .heat td, .heat thead th { min-width: 0; padding: 2px 4px; font-size: 7.5pt; }
  .heat thead th, .heat thead small, .heat thead code { white-space: normal; }
  tr > :first-child { position: static; }
  a { color: inherit; text-decoration: none; }
}
"""
