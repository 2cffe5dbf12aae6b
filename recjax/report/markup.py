"""HTML as strings that are escaped by construction.

Whatever is put into an element is text, and is escaped, unless it is `Html`, which only this
module's functions make.
"""

import html
import re

# Neither HTML nor UTF-8 can hold these: control characters and halves of surrogate pairs. The marks
# that reverse a direction would turn what stands beside a title, too.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_VOID = ("meta", "br")


class Html(str):
    """A piece of HTML; every other string is text."""


def escape(text: str) -> Html:
    """Text as HTML; what does not belong there becomes U+FFFD."""
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", text)))


def join(*parts: str) -> Html:
    """Pieces one after the other, texts escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Html:
    """One element.

    Args:
        tag: its name.
        *children: `Html`, or text.
        **attributes: by name; `class_` for class, `_` for `-`; one that is None is left out.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is not None:
            value = f"{value:.6g}" if isinstance(value, float) else str(value)
            words.append(f'{name.rstrip("_").replace("_", "-")}="{escape(value)}"')
    head = Html(f"<{' '.join(words)}>")
    return head if tag in _VOID else join(head, *children, Html(f"</{tag}>"))
