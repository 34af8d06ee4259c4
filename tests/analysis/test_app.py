"""``enl app`` in a headless Chromium, with the gradio that `make app` has fetched."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import NAMES, Page, find_chromium

from enl_detectron2.cli import main
from enl_detectron2.model_zoo import PHOTOGRAPHS

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / ".venv-app"


def test_without_gradio_it_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["enl", "app"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    with pytest.raises(SystemExit) as stop:
        main()
    said = 'enl app: error: gradio is needed: pip install "enl-detectron2[app]"\n'
    assert (stop.value.code, *capsys.readouterr()) == (2, "", said)


@pytest.fixture
def app(tmp_path):
    """The address of a page that is served by a process of its own, which ends as by Ctrl-C."""
    if not FETCHED.is_dir() and importlib.util.find_spec("gradio") is None:
        pytest.skip("no gradio: make app fetches it")
    pytest.importorskip("efficientnet_lite_pytorch")
    environment = {**os.environ, "PYTHONPATH": f"{FETCHED}:{ROOT}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-m", "enl_detectron2", "app"]
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        said = process.stdout.readline()
        yield re.fullmatch(r"Open (http://127\.0\.0\.1:\d+)/ in a browser; .*\n", said)[1]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(300) in (0, 130, -signal.SIGINT)
    assert not list(tmp_path.glob("enl-app-*"))  # nor what was dropped


@pytest.fixture
def browser(tmp_path):
    if find_chromium() is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (CONTRIBUTING.md)")
    page = Page(find_chromium(), tmp_path / "profile")
    yield page
    page.close()


def wait_for(page, expression, timeout=60):
    """The value of a JavaScript expression, once it is true."""
    end = time.monotonic() + timeout
    while not (value := page.run(expression)):
        assert time.monotonic() < end, expression
        time.sleep(0.1)
    return value


def wait_for_count(page, but=""):
    """What is said to be found, once it isn't what it was."""
    text = "document.querySelector('#counted textarea')?.value"
    return wait_for(page, f"{text} !== {json.dumps(but)} && {text}")


@pytest.mark.slow
def test_a_dropped_photograph_is_counted_and_a_click_shows_what_it_looks_at(app, browser, tmp_path):
    browser.open(app)
    wait_for(browser, "!!document.querySelector('#file input[type=file]')")
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    chosen = {"nodeId": document, "selector": "#file input[type=file]"}
    node = browser.call("DOM.querySelector", **chosen)["nodeId"]
    photograph = PHOTOGRAPHS / "fluorescence_small.jpg"
    browser.call("DOM.setFileInputFiles", files=[str(photograph)], nodeId=node)

    counted = wait_for_count(browser)
    number = int(re.fullmatch(r"fluorescence_small\.jpg: (\d+) nucleus", counted)[1])
    truth = json.loads((PHOTOGRAPHS / "nuclei.json").read_text())
    [image] = [each["id"] for each in truth["images"] if each["file_name"] == photograph.name]
    there = sum(each["image_id"] == image for each in truth["annotations"])
    assert 0.6 < number / there < 1.2
    links = wait_for(browser, "[...document.querySelectorAll('#files a')].map(a => a.href)")
    assert [Path(link).name for link in links] == ["counts.csv", "detections.json"]
    found = browser.run(f"fetch({json.dumps(links[1])}).then(answer => answer.json())")
    assert len(found) == number and {each["file_name"] for each in found} == {photograph.name}

    left, top, width, height = wait_for(
        browser,
        "(r => r && [r.left, r.top, r.width, r.height])"
        "(document.querySelector('#drawing img')?.getBoundingClientRect())",
    )
    browser.click(left + width / 2, top + height / 3)
    wait_for(browser, "document.querySelector('#attention img')?.naturalWidth")

    browser.run("document.querySelector('#score input[type=range]').focus()")
    for _ in range(30):
        browser.press("ArrowRight")
    fewer = wait_for_count(browser, but=counted)
    assert int(re.search(r": (\d+) ", fewer)[1]) < number
    browser.screenshot(tmp_path / "app.png", whole=True)
    # Nor has anything been asked of another host, which would be an error here or a sight there.
    asked = browser.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {url for url in asked if not url.startswith((app, "data:", "blob:"))} == set()
    assert [said for said in browser.errors if "Method not implemented" not in said] == []
