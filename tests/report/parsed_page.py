"""Reads a report back, as a browser would, for tests."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link"}
_HYPHENS = dict.fromkeys(map(ord, "\N{MINUS SIGN}\N{EN DASH}\N{NON-BREAKING HYPHEN}"), "-")


@dataclass
class Section:
    """A section of the page: its heading, text and tables of cells' texts."""

    title: str = ""
    text: str = ""
    notes: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    pictures: list = field(default_factory=list)


class ParsedPage(HTMLParser):
    """Parses a page and fails where tags are not balanced.

    Minus signs, dashes and non-breaking hyphens of its text become hyphens, which tests can type.

    Attributes:
      sections: {id: Section}, in order; what stands before is the section "".
      elements: (tag, attributes) of every element.
      text: {tag: texts inside} of title, h1 and h2.
    """

    def __init__(self, page):
        super().__init__()
        self.sections, self.elements, self.open = {"": Section()}, [], []
        self._section = self.sections[""]
        self._texts = {}
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag in VOID:
            return
        self.open.append((tag, attributes))
        if tag == "section":
            self._section = self.sections[attributes["id"]] = Section()
        elif tag == "table":
            self._section.tables.append([])
        elif tag == "tr":
            self._section.tables[-1].append([])
        elif tag in ("td", "th"):
            self._section.tables[-1][-1].append("")
        elif tag == "svg":
            self._section.pictures.append(attributes["aria-label"])
        elif tag == "p" and attributes.get("class") == "note":
            self._section.notes.append("")

    def handle_startendtag(self, tag, attributes):
        assert any(name == "svg" for name, _ in self.open), f"<{tag}/> outside of an SVG"
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()
        if tag == "section":
            self._section = Section()

    def handle_data(self, data):
        data = data.translate(_HYPHENS)
        tags = [name for name, _ in self.open]
        if "style" in tags:
            return
        self._section.text += data
        if "h2" in tags:
            self._section.title += data
        for name in ("title", "h1"):
            if name in tags and "svg" not in tags:
                self._texts[name] = self._texts.get(name, "") + data
        if "td" in tags or "th" in tags:
            apart = " " if tags[-1] in ("small", "strong", "span", "div") else ""
            row = self._section.tables[-1][-1]
            row[-1] = (row[-1] + apart + data).strip()
        if self.open and self.open[-1][1].get("class") == "note":
            self._section.notes[-1] += data

    def text_of(self, tag):
        return self._texts[tag]
