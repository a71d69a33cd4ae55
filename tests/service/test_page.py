"""The page at / as people see it: Debian's Chromium, the real server, the demo model."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import Taught, fresh_namespace, learn_one
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from serving import Http, ThreadServer, eventually, refused

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
LONGEST_MS = 30_000
Learnt = tuple[Taught, dict[str, Any]]
Shown = tuple[str, Taught, dict[str, Any]]
OpenPage = Callable[..., Page]
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="needs Debian's chromium")
CONTRAST = """selector => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const opaque = element => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? opaque(element.parentElement) : color;
  };
  const element = document.querySelector(selector);
  const both = [light(getComputedStyle(element).color), light(opaque(element))].sort((a, b) => a - b);
  return (both[1] + .05) / (both[0] + .05);
}"""
FOCUS = """() => {
  const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);
  const name = document.activeElement.id || document.activeElement.dataset.key || document.activeElement.textContent.slice(0, 40);
  return [name, document.activeElement === document.body || outlineStyle !== "none" && outlineWidth !== "0px"];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def shown(server: ThreadServer, facts: list[Taught]) -> Shown:
    """A namespace in which one document was learned, for tests that leave it so."""
    namespace = fresh_namespace()
    return (namespace, *learn_one(server.http, namespace, facts))


@pytest.fixture
def open_page(browser: Browser, server: ThreadServer) -> Iterator[OpenPage]:
    """Factory: the page of a namespace. It never asks anyone but its server, and never complains on the console, but of answers
    of which a test says that it `expects_errors`."""
    contexts: list[BrowserContext] = []
    requests: list[str] = []
    complaints: list[str] = []
    addresses: set[str] = set()

    def build(
        namespace: str | None,
        size: Any = WIDE,
        scheme: Any = "light",
        expects_errors: bool = False,
        before: Any = lambda _: None,
        url: str = server.url,
    ) -> Page:
        context = browser.new_context(viewport=size, color_scheme=scheme)
        context.set_default_timeout(LONGEST_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))

        def listen(message: Any) -> None:
            known = expects_errors and message.text.startswith("Failed to load resource")
            if message.type in ("error", "warning") and not known:
                complaints.append(message.text)

        page.on("console", listen)
        before(page)
        addresses.add(urlsplit(url).netloc)
        page.goto(f"{url}/" if namespace is None else f"{url}/?namespace={namespace}")
        return page

    expect.set_options(timeout=LONGEST_MS)
    yield build
    for context in contexts:
        context.close()
    assert complaints == []
    assert {urlsplit(url).netloc for url in requests} == addresses


def connected(page: Page) -> Page:
    expect(page.locator("#connection")).to_have_text("connected")
    return page


def teach(page: Page, text: str, question: str = "") -> None:
    page.get_by_label("Document", exact=True).fill(text)
    page.get_by_label("Question to ask before and after").fill(question)
    page.get_by_role("button", name="Learn the document").click()


def asked(fact: Taught) -> str:
    return fact.prompt.removeprefix("Q: ").removesuffix(" A:")


def answer_of(page: Page, when: str) -> str:
    card = page.locator(f".card.{when}[aria-busy=false]")
    return str(card.locator(".written").text_content())


def taught(page: Page, facts: list[Taught]) -> Taught:
    """Teach documents until one has taken, which the first nearly always does."""
    for fact in facts[:4]:
        teach(page, fact.text, asked(fact))
        expect(page.locator(".verdict")).to_contain_text("answers")
        if page.locator(".card.after.other").count() or answer_of(page, "after") == fact.answer.strip(" ."):
            return fact
    raise AssertionError("none of four documents took")


def test_a_document_is_seen_being_learned_with_its_tokens_its_views_and_answers_before_and_after(
    open_page: OpenPage, http: Http, namespace: str, facts: list[Taught]
) -> None:
    page = connected(open_page(namespace))
    fact = taught(page, facts)
    assert answer_of(page, "after") == fact.answer.strip(" .")
    assert answer_of(page, "before") != answer_of(page, "after")
    live = http.live(namespace)
    expect(page.locator(".card.after h4")).to_have_text(f"after {live}")
    expect(page.locator("#live")).to_have_text(live)
    assert page.locator(".stages li.done").all_text_contents() == ["Queued", "View", "Weigh", "Fold", "Guard", "Live"]
    tokens = page.locator("#result .tokens")
    assert str(tokens.text_content()).strip() == fact.text
    assert tokens.locator(".w0").count() > 0
    assert tokens.locator(".w4, .w5").count() > 0
    assert page.locator(".views li").count() > 0
    expect(page.locator(".numbers")).to_contain_text("Drift")
    page.locator(".views button").first.click()
    expect(page.locator(".card.after[aria-busy=false]")).to_be_visible()


def test_an_answer_is_streamed_with_its_version_and_its_sources_which_open(open_page: OpenPage, shown: Shown) -> None:
    namespace, fact, job = shown
    page = connected(open_page(namespace))
    page.get_by_label("Question", exact=True).fill(asked(fact))
    page.get_by_role("button", name="Ask the question").click()
    expect(page.locator("#answer .written")).to_have_text(fact.answer.strip(" ."))
    expect(page.locator("#answer .facts .version")).to_have_text(job["version"])
    page.locator(".sources button").first.click()
    expect(page.get_by_role("dialog")).to_contain_text(fact.text)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_label("Version", exact=True).select_option("v0")
    page.get_by_role("button", name="Ask the question").click()
    expect(page.locator("#answer")).to_contain_text("the base model's own")


def test_a_version_is_gone_back_to_once_that_is_confirmed(open_page: OpenPage, http: Http, shown: Shown) -> None:
    namespace, _, job = shown
    page = connected(open_page(namespace))
    back = page.get_by_role("button", name="Roll back to version v0")
    back.click()
    page.get_by_role("button", name="Cancel: Answer from v0").click()
    assert http.live(namespace) == job["version"]
    back.click()
    page.get_by_role("dialog").get_by_role("button", name="Answer from v0", exact=True).click()
    expect(page.locator("#live")).to_have_text("v0")
    expect(page.locator(".timeline .live")).to_contain_text("the base model")
    assert http.live(namespace) == "v0"
    http.post("/versions/rollback", json={"to": job["version"], "namespace": namespace}).raise_for_status()
    expect(page.locator("#live")).to_have_text(job["version"])  # what others do shows by itself


def test_a_document_is_forgotten_once_that_is_confirmed(open_page: OpenPage, http: Http, namespace: str, learned: Learnt) -> None:
    _, job = learned
    page = connected(open_page(namespace))
    for place in (page, page.get_by_role("dialog")):
        place.get_by_role("button", name=f"Forget document {job['document_id']}", exact=True).click()
    expect(page.locator("#forgetting")).to_contain_text("is forgotten")
    expect(page.locator("#shelf")).to_have_text("Nothing has been learned here.")
    assert http.get("/documents", params={"namespace": namespace}).json()["total"] == 0


def test_a_full_queue_says_so_and_when_to_try_again(
    open_page: OpenPage, server: ThreadServer, http: Http, namespace: str, facts: list[Taught]
) -> None:
    page = connected(open_page(namespace, expects_errors=True))
    jobs: list[dict[str, Any]] = []
    with server.runtime.turns.learning():  # nothing is begun
        while (answer := http.learn(text=f"Text number {len(jobs)}.", namespace=namespace)).status_code == 202:
            jobs += answer.json()["jobs"]
        teach(page, facts[0].text)
        expect(page.locator("#learn-problem")).to_contain_text("jobs are waiting")
        expect(page.locator("#learn-problem")).to_contain_text("Try again in 5 seconds.")
        for job in jobs:
            http.post(f"/learn/{job['job_id']}/cancel")
    eventually(lambda: http.metric("infold_queue_depth", namespace=namespace) == 0)


def test_a_rejected_document_is_shown_with_the_reason_of_the_guard(
    open_page: OpenPage, server: ThreadServer, namespace: str, monkeypatch: pytest.MonkeyPatch, facts: list[Taught]
) -> None:
    guard = server.runtime.learner.guard
    monkeypatch.setattr(guard, "config", replace(guard.config, kl_step=1e-12, kl_total=1e-12))
    page = connected(open_page(namespace))
    teach(page, facts[0].text)
    expect(page.locator(".verdict.bad")).to_contain_text("Rejected by the guard: drift of this update")
    expect(page.locator(".stages .stopped")).to_have_text("Guard")
    page.locator("#shelf button").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("rejected by the guard")


def test_a_document_that_contradicts_itself_is_shown_with_a_warning(open_page: OpenPage, namespace: str) -> None:
    page = connected(open_page(namespace))
    teach(page, "Elsa Quint works as a carpenter. The shops were closed. Elsa Quint works as a baker.")
    expect(page.locator(".verdict")).to_contain_text("answers now")
    expect(page.locator(".warnings li")).to_contain_text("carpenter")


def test_a_server_that_is_away_is_said_to_be_and_the_page_comes_back_by_itself(open_page: OpenPage, shown: Shown) -> None:
    namespace, fact, _ = shown
    page = connected(open_page(namespace, expects_errors=True))
    page.context.set_offline(True)
    teach(page, fact.text)
    expect(page.locator("#learn-problem")).to_contain_text("The server does not answer.")
    expect(page.locator("#connection")).to_have_text("not connected")
    expect(page.get_by_text("This page keeps trying")).to_be_visible()
    page.context.set_offline(False)
    connected(page)
    expect(page.locator("#banner")).to_be_hidden()


def test_everything_works_by_keyboard_and_the_focus_is_always_seen(open_page: OpenPage, http: Http, shown: Shown) -> None:
    namespace, fact, job = shown
    page = connected(open_page(namespace))
    seen: list[str] = []

    def tab_to(name: str) -> None:
        while not seen or seen[-1] != name:
            page.keyboard.press("Tab")
            where, visible = page.evaluate(FOCUS)
            assert visible, f"the focus is not seen on {where}"
            seen.append(where)
            assert len(seen) < 100, f"{name} is not reached: {seen}"

    expect(page.locator(".timeline .live")).to_be_visible()
    tab_to("text")
    page.keyboard.type(fact.text)  # the same again: the same job
    page.keyboard.press("Control+Enter")
    expect(page.locator(".verdict")).to_be_visible()
    tab_to("go v0")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate(FOCUS)[0] == "go v0"
    page.keyboard.press("Enter")
    tab_to("Answer from v0")
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_text("v0")
    tab_to(f"forget {job['document_id']}")
    tab_to("text")  # round and back: nothing holds the focus
    assert http.live(namespace) == "v0"
    http.post("/versions/rollback", json={"to": job["version"], "namespace": namespace}).raise_for_status()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_in_dark(open_page: OpenPage, shown: Shown, scheme: str) -> None:
    namespace, _, job = shown
    page = connected(open_page(namespace, scheme=scheme))
    expect(page.locator(".timeline .live")).to_contain_text(job["document_id"])
    expect(page.locator("#queue dt").first).to_be_visible()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) < 3 * 60) == (scheme == "dark")
    for selector in (
        "h1",
        "h2",
        "label",
        "#text",
        "button.primary",
        "button.quiet",
        ".facts",
        ".badge",
        "figcaption",
        "dt",
        "footer",
    ):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector


def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page: OpenPage, shown: Shown) -> None:
    namespace, fact, _ = shown
    page = connected(open_page(namespace, size=PHONE))
    teach(page, fact.text, asked(fact))
    assert answer_of(page, "after") == fact.answer.strip(" .")
    expect(page.locator("#seconds svg")).to_be_visible()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    page.locator("#shelf button").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("Accepted")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]


def test_every_button_has_a_name_of_its_own_that_begins_with_what_it_shows(open_page: OpenPage, shown: Shown) -> None:
    """And so says what it acts on to those who do not see where it stands."""
    namespace, fact, job = shown
    page = connected(open_page(namespace))
    teach(page, fact.text)
    expect(page.locator(".views button").first).to_be_visible()
    page.get_by_label("Question", exact=True).fill(asked(fact))
    page.get_by_role("button", name="Ask the question").click()
    expect(page.locator(".sources button").first).to_be_visible()
    expect(page.locator("#shelf button").first).to_be_visible()
    for opens in (None, f"Open document {job['document_id']}"):
        if opens:
            page.get_by_role("button", name=opens).first.click()
        found = page.get_by_role("dialog" if opens else "document").get_by_role("button").all()
        names = [(str(b.text_content()).strip(), b.get_attribute("aria-label") or str(b.text_content()).strip()) for b in found]
        assert len(names) > 2
        for text, name in names:
            assert text in name
            assert len(name.split()) > 1, name
        actions = [name for text, name in names if not name.startswith("Open document")]
        assert len(set(actions)) == len(actions)


def test_texts_of_users_are_shown_as_they_are(open_page: OpenPage, namespace: str) -> None:
    """Markup in a document is text, wherever the page shows it."""
    page = connected(open_page(namespace))
    markup = "<img src=x onerror=document.title=1> <b>Mira</b> lives in Oslo."
    teach(page, markup, "<i>Where?</i>")
    expect(page.locator(".verdict")).to_be_visible()
    assert str(page.locator("#result .tokens").text_content()).strip() == markup
    page.locator("#shelf button").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("<b>Mira</b>")
    assert page.locator("img, i, b").count() == 0
    assert page.title() == "infold"


def test_the_page_and_its_parts_come_under_a_policy_that_lets_them_load_nothing_else(http: Http) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("ui/main.js", "ui/page.css", "ui/icon.svg"):
        assert f'"{path}"' in page.text
        assert http.get(f"/{path}").headers["content-security-policy"] == page.headers["content-security-policy"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("/ui/none.js", "/ui/..%2fapp.py", "/ui/%2e%2e/app.py", "/ui/"):
        refused(http.get(path), 404)
