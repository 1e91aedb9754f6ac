"""The style sheet of the page: one column, light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d6671; --line: #d9dee4; --ground: #fff; --panel: #f6f8fa;
  --ours: #2563eb; --published: #c2410c; --true: #15803d; --given: #dc2626 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --line: #333a43; --ground: #14171b;
  --panel: #1c2127; --ours: #60a5fa; --published: #fb923c; --true: #4ade80; --given: #f87171 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 72rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem } h3 { font-size: 1rem }
p { margin: .4rem 0 } .soft, small, figcaption p { color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--soft) } .number { text-align: right; font-variant-numeric: tabular-nums }
.bar { width: 12rem; height: 1.1rem; display: block } .bar .ground { fill: var(--panel); stroke: var(--line) }
.bar .interval { fill: var(--ours); opacity: .3 } .bar .ours { fill: var(--ours) }
.bar .published { fill: var(--published) }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem; background: var(--panel); border: 1px solid var(--line); border-radius: .5rem }
.picture { position: relative } .picture img { display: block; width: 100%; border-radius: .25rem }
.picture img.small { image-rendering: pixelated }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100% }
rect.true, rect.given { fill: none; stroke-width: 3; vector-effect: non-scaling-stroke }
rect.true { stroke: var(--true) } rect.given { stroke: var(--given); stroke-dasharray: 8 4 }
dl { margin: .3rem 0 0; display: grid; grid-template-columns: auto 1fr; gap: .1rem .6rem } dt { color: var(--soft) }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere } .missing { color: var(--given) }
pre { overflow-x: auto; background: var(--panel); padding: .8rem; border-radius: .5rem }
"""
