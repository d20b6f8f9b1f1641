"""The endpoint's page in a real browser: what a person sees, hears from a screen reader, and can do with keys alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.browser import Page, chromium
from tests.serving.conftest import Reddest, Served, picture, serving
from tests.serving.test_insight import Seeing, insight

from finepoint.serving.tokens import Token


def test_the_page_comes_without_a_token_and_under_a_strict_policy(served: Served) -> None:
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        answer = served.client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
    text = served.client.get("/").text
    assert "://" not in text
    assert "style=" not in text
    with serving(token=Token("a-secret-of-some-length")) as guarded:
        assert guarded.client.get("/").status_code == 200
        assert guarded.client.get("/metadata").status_code == 401


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def seeing() -> Iterator[Served]:
    with serving(Seeing(), insight=insight()) as running:
        yield running


def ask(page: Page, url: str, image: bytes, folder: Path, name: str = "red one.png", **how: int) -> None:
    (folder / name).write_bytes(image)
    page.open(f"{url}/", **how)
    page.wait("document.getElementById('name').textContent === 'reddest'")
    page.choose_file("#file", str(folder / name))
    page.wait("!document.getElementById('result').hidden")


@pytest.mark.slow
def test_a_picture_is_answered_with_classes_as_text_a_heat_map_and_a_curl_line(
    page: Page, seeing: Served, tmp_path: Path
) -> None:
    ask(page, seeing.url, picture((230, 25, 25)), tmp_path)
    assert page.run("document.getElementById('answer').textContent") == "red"
    lines = page.run("[...document.querySelectorAll('#classes li')].map((line) => line.textContent)")
    assert [line.split("%")[0].strip()[:3] for line in lines] == ["red", "not"]
    assert "not <red>" in lines[1]
    assert page.run("document.getElementById('heat').naturalWidth") == 8
    assert page.run("document.getElementById('unknown').hidden") is True
    curl = page.run("document.getElementById('curl').textContent")
    assert curl.startswith("curl --data-binary @'red one.png' -H 'Content-Type: image/png' ")
    assert f"'{seeing.url}/invocations?top=5'" in curl
    assert "Heat map: bright where the picture speaks for red" in page.names("image")
    problems = [event["params"] for event in page.events if event.get("method") == "Runtime.exceptionThrown"]
    entries = [event["params"]["entry"] for event in page.events if event.get("method") == "Log.entryAdded"]
    assert problems == []
    assert [entry["text"] for entry in entries if entry["level"] == "error"] == []


@pytest.mark.slow
def test_an_unknown_picture_is_said_to_be_one(page: Page, seeing: Served, tmp_path: Path) -> None:
    ask(page, seeing.url, picture((20, 20, 250)), tmp_path, "blue.png")
    assert page.run("document.getElementById('unknown').hidden") is False
    assert "unlike the images it was trained on" in page.run("document.getElementById('unknown').textContent")
    assert page.run("document.activeElement.id") == "answer"


@pytest.mark.slow
def test_it_fits_a_phone_and_works_with_keys(page: Page, seeing: Served, tmp_path: Path) -> None:
    ask(page, seeing.url, picture((230, 25, 25)), tmp_path, "r.png", width=360, height=700)
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.run("document.activeElement.blur()")
    page.run("document.body.focus()")
    reached = []
    for _ in range(9):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "camera", "copy"} <= set(reached)
    assert {"Choose a file", "Take a photo", "Copy"} <= set(page.names("button"))


@pytest.mark.slow
def test_a_refusal_is_said_and_a_model_without_a_map_still_answers(page: Page, tmp_path: Path) -> None:
    with serving(Reddest(), token=Token("a-secret-of-some-length")) as guarded:
        (tmp_path / "r.png").write_bytes(picture((255, 0, 0)))
        page.open(f"{guarded.url}/")
        page.wait("!document.getElementById('token-line').hidden")
        page.choose_file("#file", str(tmp_path / "r.png"))
        page.wait("document.getElementById('status').textContent.startsWith('No answer')")
        assert "token" in page.run("document.getElementById('status').textContent")
        page.run("document.getElementById('token').value = 'a-secret-of-some-length'")
        page.choose_file("#file", str(tmp_path / "r.png"))
        page.wait("!document.getElementById('result').hidden")
        assert page.run("document.getElementById('answer').textContent") == "red"
        assert "no feature map" in page.run("document.getElementById('no-why').textContent")
        assert "$FINEPOINT_TOKEN" in page.run("document.getElementById('curl').textContent")
