"""The report in a real browser: what it shows, that it loads nothing, that it fits a phone.

Chromium is driven over its DevTools pipe: one start, no port. `scripts/test.sh` installs it where
it can; elsewhere these tests are skipped, and say so.
"""

import base64
import json
import math
import os
import select
import shutil
import struct
import subprocess
import time
import zlib

import pytest

from recjax.report.page import write_report
from recjax.report.sections import Bars, Case, Cases, Item, Lines, Table, Text, write_results

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions",
]  # fmt: skip
DEADLINE = 90  # s, of an answer; the first one waits for the start


class Browser:
    """A headless Chromium with one tab."""

    def __init__(self, program, profile):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # It reads commands from descriptor 3 and answers on 4, each message ended by a zero byte.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        command = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.requests, self.complaints = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _message(self):
        deadline = time.monotonic() + DEADLINE
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError("the browser does not answer")
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise EOFError("the browser has ended")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(message)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
            self.complaints.append(message["params"])
        return message

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path, *, width=1000, dark=False):
        """Loads a file, in a window of so many CSS pixels."""
        phone = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self._message().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self):
        """The whole page as a PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(data["data"])

    def close(self):
        """Ends this browser, and no other."""
        os.close(self._write)  # then it ends by itself
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._read)


def ink(png):
    """The share of a PNG's bytes that differ from what its rows predict; almost 0 of a blank."""
    at, data = 8, b""
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += 12 + size
    raw = zlib.decompress(data)
    return 1 - raw.count(0) / len(raw)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser ({', '.join(NAMES)}): apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


EVIL = "<script>window.hurt = 1</script><img src='http://hurt.test/x' onerror='hurt = 1'> & Sons"
LONG = "Swords_and_Sorcery_Underworld_Definitive_Edition_" * 4
COUNTS = [str(count) for count in range(11)]
MODELS = ("GRU4Rec", "Caser", "SASRec", "DreamRec", "Popularity")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run with a section of each kind."""
    workdir = tmp_path_factory.mktemp("run")
    config = {"system": "interpreter", "adapter": {"name": "linear", "soft": 1}, "llm": LONG}
    config["train"] = {"metric": "validation/residual/accuracy"}
    (workdir / "config.json").write_text(json.dumps({"config": config}))
    lines = [
        {"step": k, "loss": math.exp(-k), "validation/residual/accuracy": k / 20} for k in range(20)
    ]
    lines.append({"step": 19, "final": True, "test/residual/accuracy": 0.9789})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shares = {name: [0.05 * (1 + k % 3) for k in range(11)] for name in MODELS}
    history = [Item("Fargo", "hit"), Item(EVIL, "miss"), Item("三国志"), Item(LONG)]
    said = [Item("Fargo", "hit"), Item("Alein", "unknown")]
    write_results(
        workdir / "results.json",
        [
            Text("Summary", f"A sentence.\n\n{EVIL}"),
            Bars("Recovered items", COUNTS, shares, percent=True),
            Bars("Filter", ["old", "new", "none"], {"weight": [-0.5, 1.0, None]}),
            Table("Accuracy", ["data", *MODELS, "long"], [["MovieLens", *[0.5] * 5, LONG]]),
            Cases("Cases", [Case(f"User 1, {EVIL}", history, said, False)]),
            Lines(
                "Loss", "step", "nats", {"train": [(k, math.sin(k / 99)) for k in range(10_000)]}
            ),
        ],
    )
    return write_report(workdir)


def test_it_shows_what_was_written(browser, report):
    browser.open(report)
    assert browser.evaluate("document.title") == f"linear · {report.parent.name}"
    headings = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.innerText)")
    assert headings == [
        "Metrics", "Training", "Summary", "Recovered items", "Filter", "Accuracy", "Cases", "Loss"
    ]  # fmt: skip
    text = browser.evaluate("document.body.innerText")
    assert text.count(EVIL) == 3
    for words in ("A sentence.", "0.9789", "MovieLens", "三国志", "✓", "✗ wrong", "Alein"):
        assert words in text
    assert "soft" not in text.split("\n")  # the settings are folded
    browser.evaluate("document.querySelector('summary').click()")
    assert "soft\t1" in browser.evaluate("document.body.innerText")


def test_it_loads_nothing_and_runs_nothing(browser, report):
    browser.open(report)
    assert browser.requests == [report.resolve().as_uri()]
    assert browser.evaluate("performance.getEntriesByType('resource').length") == 0
    assert browser.evaluate("typeof window.hurt") == "undefined"
    assert browser.evaluate("document.scripts.length + document.images.length") == 0
    assert browser.complaints == []


def test_the_browser_would_see_what_is_loaded(browser, tmp_path):
    hurt = tmp_path / "hurt.html"
    hurt.write_text(EVIL.replace("http://hurt.test/x", "gone.png"))
    browser.open(hurt)
    assert [url.rpartition("/")[2] for url in browser.requests] == ["hurt.html", "gone.png"]
    assert browser.evaluate("window.hurt") == 1


@pytest.mark.parametrize("width", [400, 320])
def test_it_fits_a_phone(browser, report, width):
    browser.open(report, width=width)
    size = "[innerWidth, document.documentElement.scrollWidth]"
    assert browser.evaluate(size) == [width, width]
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate(size) == [width, width]
    # What is wide scrolls by itself, the dense chart and the wide table among it.
    wide = "document.querySelector('#{0} .wide')"
    for id in ("recovered-items-4", "accuracy-6"):
        box = wide.replace("{0}", id)
        assert browser.evaluate(f"{box}.scrollWidth > {box}.clientWidth")
        assert browser.evaluate(f"{box}.clientWidth <= {width}")
    box = wide.replace("{0}", "filter-5")
    assert browser.evaluate(f"{box}.scrollWidth == {box}.clientWidth")


def test_bars_are_as_high_as_their_numbers(browser, report):
    browser.open(report)
    script = """[...document.querySelectorAll('#filter-5 .plot rect')].map(r => {
        const box = r.getBoundingClientRect(); return [box.top, box.bottom, r.textContent] })"""
    (old_top, old_bottom, old), (new_top, new_bottom, new) = browser.evaluate(script)
    assert [old, new] == ["old, weight: -0.5", "new, weight: 1"]
    assert new_bottom == pytest.approx(old_top, abs=0.1)  # both stand on zero
    assert new_bottom - new_top == pytest.approx(2 * (old_bottom - old_top), rel=0.01)
    assert new_bottom - new_top > 100


def test_it_is_painted_in_light_and_dark(browser, report, tmp_path):
    (tmp_path / "blank.html").write_text("")
    browser.open(tmp_path / "blank.html")
    assert ink(browser.screenshot()) < 0.001
    colours = []
    for dark in (False, True):
        browser.open(report, dark=dark)
        assert ink(browser.screenshot()) > 0.01
        style = "getComputedStyle(document.body)"
        colours.append(browser.evaluate(f"[{style}.backgroundColor, {style}.color]"))
    assert colours == [
        ["rgb(255, 255, 255)", "rgb(29, 34, 41)"],
        ["rgb(20, 23, 27)", "rgb(226, 229, 233)"],
    ]


def test_it_prints_on_paper(browser, report):
    browser.open(report, width=680, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.evaluate("document.documentElement.scrollWidth") <= 680
    style = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(style) == "rgb(255, 255, 255)"
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    pdf = base64.b64decode(browser.call("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
