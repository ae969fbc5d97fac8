"""How a feature's page looks: quiet, in light and dark, on paper; nothing is fetched."""

from __future__ import annotations

from html import escape

from saework.views.heatmap_markup import HEATMAP_STYLE

STYLE = (
    """
.saework-page{--line:rgba(128,128,128,.28);--soft:rgba(128,128,128,.09);--bar:rgb(0,114,178);max-width:54rem;margin:0 auto;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.saework-page h1{font-size:1.75rem;line-height:1.2;font-weight:600;letter-spacing:-.015em;margin:0 0 .2rem}
.saework-page h2{font-size:1.1rem;line-height:1.3;font-weight:600;margin:2.6rem 0 .3rem;padding-top:1rem;border-top:1px solid var(--line)}
.saework-page p{margin:.35rem 0;max-width:46rem}
.saework-page .lead{font-size:1.15rem;line-height:1.5;margin:.9rem 0}
.saework-page .source,.saework-page .note,.saework-page caption,.saework-page summary{font-size:.84rem}
.saework-page .source,.saework-page .note,.saework-page summary{opacity:.78}
.saework-page .source,.saework-page .token{overflow-wrap:anywhere}
.saework-page table{border-collapse:collapse;margin:.9rem 0 1.2rem;font-size:.88rem;font-variant-numeric:tabular-nums;background:none}
.saework-page caption{text-align:left;padding:0 0 .35rem;caption-side:top}
.saework-page th,.saework-page td{padding:.22rem 1.1rem .22rem 0;text-align:right;vertical-align:baseline;font-weight:400;
border:0;background:none}
.saework-page thead th{font-size:.78rem;opacity:.78;border-bottom:1px solid var(--line);vertical-align:bottom;line-height:1.3}
.saework-page tbody tr{border-bottom:1px solid var(--soft);background:none}
.saework-page .left{text-align:left}
.saework-page .token,.saework-page .context{text-align:left;
font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.saework-page thead .token{font-family:inherit}
.saework-page table.examples{width:100%;table-layout:fixed}
.saework-page .of-token{width:8.5rem}.saework-page .of-number{width:5.4rem}
.saework-page .examples th,.saework-page .examples td{vertical-align:top;line-height:1.7}
.saework-page .examples thead th{line-height:1.3;vertical-align:bottom}
.saework-page .examples tbody+tbody::before{content:"";display:block;height:.9rem}
.saework-page .group th{text-align:left;padding-top:.5rem;font-size:.84rem;opacity:.78}
.saework-page .examples .context{font-size:.82rem;padding-right:0;overflow-wrap:anywhere}
.saework-page .pair{display:flex;flex-wrap:wrap;align-items:flex-start;gap:0 3.5rem}
.saework-page svg{display:block;width:100%;max-width:40rem;height:auto;margin:.9rem 0 .2rem;
font-size:11px;font-variant-numeric:tabular-nums}
.saework-page svg text{fill:currentColor;opacity:.8}
.saework-page details{margin:.2rem 0 .8rem}
.saework-page summary{cursor:pointer}
.saework-page a{color:inherit;text-decoration-thickness:1px;text-underline-offset:.2em}
@media(max-width:40rem){.saework-page .of-token{width:5.2rem}.saework-page .of-number{width:3.9rem}
.saework-page th,.saework-page td{padding-right:.6rem}}
@media print{.saework-page{font-size:11pt}.saework-page tr,.saework-page svg{break-inside:avoid}.saework-page h2{break-after:avoid}}
""".strip()
    + HEATMAP_STYLE
)

DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root{{color-scheme:light dark}}
body{{margin:2.5rem 1.25rem 4rem;background:#fdfdfc;color:#1b1c1e}}
@media (prefers-color-scheme:dark){{body{{background:#16181b;color:#e4e5e7}}}}
{style}
</style>
</head>
<body>
<main class="saework-page">
{body}
</main>
</body>
</html>
"""


def document(title: str, body: str) -> str:
    """A whole HTML page: no script, nothing fetched."""
    return DOCUMENT.format(title=escape(title), style=STYLE, body=body)
