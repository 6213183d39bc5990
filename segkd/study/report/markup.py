"""Text of notebooks to safe HTML: Markdown with formulas as MathML, sanitised tables; nothing active or remote."""

from __future__ import annotations

import re
from html import escape, unescape

MATH_TAGS = frozenset(
    "math mrow mi mo mn ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts "
    "mtable mtr mtd mlabeledtr mstyle mpadded mphantom menclose merror".split()
)
MATH_ATTRIBUTES = frozenset(
    "display mathvariant stretchy fence form accent accentunder width height depth lspace rspace columnalign minsize "
    "maxsize linethickness displaystyle scriptlevel mathcolor movablelimits largeop symmetric separator".split()
)
TAGS = frozenset(
    "a abbr b blockquote br caption cite code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 "
    "h5 h6 hr i img ins kbd li mark ol p pre s small span strong sub summary sup table tbody td tfoot th thead tr u ul"
    .split()
)
ATTRIBUTES = frozenset("alt class colspan height href id open rowspan scope span src start style title width".split())
ACTIVE = "style script iframe object embed template noscript svg math".split()
STYLES = (
    "background-color border border-bottom border-collapse border-left border-right border-top color font-size "
    "font-style font-weight max-width min-width padding padding-left text-align text-decoration vertical-align "
    "white-space width"
).split()
# A pandas Styler keeps its colours in a style block; its rules all start with the id of the table.
STYLER_RULE = re.compile(r"#T_[\w\s#.,:()>-]+\{[^{}<>@\\]*\}")
HYPHEN = re.compile(r"(?<![\w.−-])-(\d+(?:\.\d+)?)")  # before a number: a minus, before zero: nothing
NUMBER = re.compile(
    r"[-+−±(]?\s*(\d[\d.,]*(e[-+]?\d+)?|nan|none|inf|[–—-])\s*(%|[±\[(].*|pp|s|ms|M|G)?[)*]*$", re.IGNORECASE
)


def markdown_html(source: str, attachments: dict | None = None) -> str:
    """Markdown (with ``$...$`` and ``$$...$$``) as sanitised HTML; pictures must be attachments of the cell."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    formulas: list[str] = []

    class Renderer(IPythonRenderer):
        """nbconvert's renderer with every formula put aside, so that the sanitiser does not have to know MathML."""

        def _aside(self, latex: str, display: bool) -> str:
            formulas.append(formula_html(latex, display))
            return f"\ue000{len(formulas) - 1}\ue001"

        def inline_math(self, body: str) -> str:
            return self._aside(body, False)

        def block_math(self, body: str) -> str:
            return self._aside(body, True)

        def latex_environment(self, name: str, body: str) -> str:
            return self._aside(f"\\begin{{{name}}}{body}\\end{{{name}}}", True)

    renderer = Renderer(escape=False, attachments=attachments or {}, anchor_link_text="#")
    text = MarkdownWithMath(renderer=renderer).render(re.sub("[\ue000\ue001]", "", source))
    return re.sub("\ue000(\\d+)\ue001", lambda m: formulas[int(m[1])], clean_html(text))


def formula_html(latex: str, display: bool = False) -> str:
    """A LaTeX formula as MathML; one that cannot be converted is shown as its source."""
    from xml.etree import ElementTree

    from latex2mathml.converter import convert_to_element

    source = re.sub(r"\\(begin|end)\{(aligned|align|split|gathered|equation)\*?\}", _environment, latex.strip())
    source = re.sub(r"\\arg\s*\\(max|min)(?![a-zA-Z])", r"\\operatorname{arg\\,\1}", source)
    source = re.sub(r"\\operatorname\*?\{(\w+)\\,(\w+)\}", r"\\text{\1 \2}", source)
    source = source.replace(r"\operatorname*", r"\operatorname")
    source = re.sub(r"\\[bB]igg?[lrm]?(?=\\\|)|\\label\{[^}]*\}", "", source)
    try:
        tree = convert_to_element(source, display="block" if display else "inline")
    except Exception:  # noqa: BLE001  the converter raises a dozen of its own types; the source is readable too
        return _formula_source(latex)
    for element in tree.iter():
        element.attrib = {k: v for k, v in element.attrib.items() if k in MATH_ATTRIBUTES}
        element.text = None if element.text is None else unescape(element.text)
        if element.tag == "mi" and element.text == "~":
            element.tag, element.text = "mo", "∼"
        if element.tag not in MATH_TAGS or (element.text or "").startswith("\\"):
            return _formula_source(latex)
    return ElementTree.tostring(tree, encoding="unicode")


def _environment(match: re.Match) -> str:
    """The environments of several lines that the converter knows under one name; equation adds nothing."""
    return "" if match[2] == "equation" else f"\\{match[1]}{{align*}}"


def _formula_source(latex: str) -> str:
    return f'<code class="formula">{escape(latex.strip())}</code>'


def clean_html(text: str) -> str:
    """HTML of an output or a text with everything active or remote taken out; tables made readable."""
    import bleach
    from bleach.css_sanitizer import CSSSanitizer
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    rules = [rule for style in soup.find_all("style") for rule in STYLER_RULE.findall(style.get_text())]
    for element in soup.find_all(ACTIVE):
        element.decompose()
    for image in soup.find_all("img", src=lambda src: not (src or "").startswith("data:image/")):
        image.decompose()
    protocols, css = {"http", "https", "mailto", "data"}, CSSSanitizer(allowed_css_properties=STYLES)
    cleaned = bleach.clean(
        str(soup), tags=TAGS, attributes=_allowed, protocols=protocols, css_sanitizer=css, strip=True
    )
    kept = [rule for rule in rules if "url" not in rule.lower()]
    return (f"<style>{' '.join(kept)}</style>" if kept else "") + _align_tables(cleaned)


def _allowed(tag: str, name: str, value: str) -> bool:
    """bleach's question for each attribute: pictures only as data, links never as data, no event handlers."""
    if name == "src":
        return tag == "img" and value.startswith("data:image/")
    if name == "href":
        return tag == "a" and not value.lower().lstrip().startswith("data:")
    return name in ATTRIBUTES


def _align_tables(text: str) -> str:
    """Numbers to the right with a real minus, words to the left, names of an index beside those of the columns, wide tables scroll."""
    from bs4 import BeautifulSoup

    if "<table" not in text:
        return text
    soup = BeautifulSoup(text, "html.parser")
    for table in soup.find_all("table"):
        for row in table.find_all("tr"):
            row.attrs.pop("style", None)
        table.attrs.pop("border", None)
        for cell in table.find_all(title=True):
            cell["tabindex"] = "-1"  # a finger on it shows what the mouse does
        for text in table.find_all(string=HYPHEN):
            if text.find_parent("code") is None:
                text.replace_with(with_minus(text))
        rows = [row.find_all(["td", "th"], recursive=False) for row in table.find_all("tr")]
        rows = _merge_index_names(rows)
        _align_columns(rows)
        region = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Table"}  # arrow keys scroll what has the focus
        table.wrap(soup.new_tag("div", attrs=region))
    return str(soup)


def with_minus(text: str) -> str:
    """A hyphen before a number as a minus, before zero as nothing."""
    return HYPHEN.sub(lambda found: f"−{found[1]}" if float(found[1]) else found[1], text)


def _merge_index_names(rows: list[list]) -> list[list]:
    """pandas prints the names of the index in a heading row of their own; move them up, in place of the name of the columns."""
    heads = [row for row in rows if row and row[0].find_parent("thead")]
    if len(heads) < 2 or len(heads[-1]) != len(heads[-2]):
        return rows
    upper, lower = heads[-2:]
    if lower[-1].get_text(strip=True) or not any(b.get_text(strip=True) for b in lower):
        return rows
    for above, below in zip(upper, lower):
        if below.get_text(strip=True):
            above.string = below.get_text()
    lower[0].parent.decompose()
    return [row for row in rows if row is not lower]


def _align_columns(rows: list[list]) -> None:
    """Mark the cells of numeric columns; columns count from the right, where spanning row labels do not reach."""
    body = [[cell for cell in row if cell.name == "td"] for row in rows]
    for column in range(1, max(map(len, body), default=0) + 1):
        texts = [row[-column].get_text().strip() for row in body if len(row) >= column]
        numeric = all(NUMBER.match(t) for t in texts if t) and any(c.isdigit() for t in texts for c in t)
        for row in rows if numeric else []:
            if len(row) >= column and not row[-column].get("colspan"):
                row[-column]["class"] = [*row[-column].get("class", []), "num"]
