"""The page on a server that asks for keys: what each of them may do is offered, what it may not is said, and rates are kept."""

from collections.abc import Callable

import pytest
from conftest import Taught
from playwright.sync_api import Page, expect
from serving import Http, ThreadServer, eventually
from test_page import OpenPage, asked, browser, connected, open_page, pytestmark, teach

__all__ = ["browser", "open_page", "pytestmark"]
MakeKey = Callable[..., str]
Answers = list[tuple[int, str]]
WRONG = f"infold_{'0' * 12}_{'x' * 43}"


@pytest.fixture
def make_key(guarded: ThreadServer) -> MakeKey:
    """Factory: a new key."""

    def build(*scopes: str, **more: object) -> str:
        return str(guarded.http.post("/keys", json={"name": "page", "scopes": scopes} | more).raise_for_status().json()["key"])

    return build


@pytest.fixture
def enter(open_page: OpenPage, guarded: ThreadServer) -> Callable[..., Page]:
    """The page, once a key has been given."""

    def build(key: str, namespace: str | None = None) -> Page:
        page = open_page(namespace, expects_errors=True, url=guarded.url)  # the first look is refused: there is no key yet
        give(page, key)
        return connected(page)

    return build


def give(page: Page, key: str) -> None:
    expect(page.locator("#key")).to_be_empty()
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")


@pytest.fixture
def asks(guarded: ThreadServer) -> Callable[[Page], Answers]:
    """Factory: the answers that a page gets from then on, as statuses and paths."""

    def build(page: Page) -> Answers:
        seen: Answers = []
        page.on("response", lambda answer: seen.append((answer.status, answer.url.removeprefix(guarded.url))))
        return seen

    return build


def test_a_key_is_asked_for_until_it_is_a_good_one_and_sent_from_then_on(
    open_page: OpenPage, guarded: ThreadServer, make_key: MakeKey
) -> None:
    page = open_page(None, expects_errors=True, url=guarded.url)
    expect(page.get_by_role("dialog")).to_contain_text("an API key is needed")
    page.keyboard.press("Escape")
    expect(page.locator("#connection")).to_have_text("key needed")
    page.get_by_role("button", name="Enter a key").click()
    give(page, WRONG)
    expect(page.get_by_role("dialog")).to_contain_text("not known, or was revoked")
    give(page, f" {make_key('admin')} ")
    connected(page)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 1, ""]


def test_what_is_no_key_at_all_is_not_sent(open_page: OpenPage, guarded: ThreadServer) -> None:
    """No header could hold it."""
    page = open_page(None, expects_errors=True, url=guarded.url)
    give(page, "\u0448\u043b\u044e\u0441\u0441\u0435\u043b")
    assert page.locator("#key").evaluate("field => field.validity.patternMismatch")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_a_key_that_may_only_teach_teaches_its_own_namespace(
    enter: Callable[..., Page], make_key: MakeKey, guarded: ThreadServer, facts: list[Taught]
) -> None:
    """Whatever the address names, and sees its documents, and nothing is asked that would be refused."""
    page = enter(make_key("learn", namespaces=["spare"]), "globex")
    expect(page.locator("#namespace")).to_have_value("spare")
    teach(page, facts[7].text)
    expect(page.locator(".verdict")).to_contain_text("answers")
    expect(page.locator("#learn-problem")).to_be_hidden()
    [document] = guarded.http.get("/documents", params={"namespace": "spare", "limit": 1}).json()["documents"]
    expect(page.locator("#shelf")).to_contain_text(document)
    for panel in ("#ask", "#versions", "#health"):
        expect(page.locator(panel)).to_contain_text("it lacks the scope generate")
    expect(page.get_by_role("button", name="Forget")).to_have_count(0)


def test_a_key_that_may_only_ask_asks(
    enter: Callable[..., Page], make_key: MakeKey, guarded: ThreadServer, facts: list[Taught]
) -> None:
    page = enter(make_key("generate", namespaces=["acme"]))
    page.get_by_label("Question", exact=True).fill(asked(facts[0]))
    page.get_by_role("button", name="Ask the question").click()
    expect(page.locator("#answer .facts .version")).to_have_text(guarded.http.live("acme"))
    for panel in ("#learn", "#documents"):
        expect(page.locator(panel)).to_contain_text("it lacks the scope learn")
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)


def test_nothing_is_asked_that_a_key_may_not(
    enter: Callable[..., Page], make_key: MakeKey, asks: Callable[[Page], Answers]
) -> None:
    for scopes in (["learn"], ["generate"]):
        page = enter(make_key(*scopes))
        seen = asks(page)
        page.reload()
        connected(page)
        page.wait_for_event("response")  # of the next look
        assert seen
        assert [(status, path) for status, path in seen if status >= 400] == [], scopes


def test_another_key_takes_the_place_of_one_that_may_too_little_and_of_one_that_was_revoked(
    enter: Callable[..., Page], make_key: MakeKey, guarded: ThreadServer
) -> None:
    page = enter(make_key("metrics"))
    page.get_by_role("button", name="Change the API key").click()
    second = make_key("generate", "learn")
    give(page, second)
    expect(page.locator("#live")).to_have_text(guarded.http.live("default"))
    guarded.http.delete(f"/keys/{second.split('_')[1]}").raise_for_status()
    expect(page.get_by_role("dialog")).to_contain_text("was revoked")
    give(page, make_key("admin", namespaces=["acme"]))
    connected(page)
    expect(page.locator("#namespace")).to_have_value("acme")


def test_a_key_with_a_low_rate_is_waited_for(
    enter: Callable[..., Page], make_key: MakeKey, asks: Callable[[Page], Answers], guarded: ThreadServer, facts: list[Taught]
) -> None:
    """What became of a document is shown, later; and the page looks less often by itself, so that its owner can ask."""
    key = make_key("generate", "learn", namespaces=["globex"], rate=60)
    page = enter(key)
    seen = asks(page)
    with guarded.runtime.turns.learning():  # nothing is begun
        teach(page, facts[8].text)
        expect(page.locator(".stages .current")).to_be_visible()
        with Http(guarded.url, key) as other:
            eventually(lambda: other.get("/access").status_code == 429)
    expect(page.locator(".verdict")).not_to_be_empty()
    assert 429 in {status for status, _ in seen}
    expect(page.locator("#learn-problem")).to_be_hidden()
    expect(page.locator("#connection")).to_have_text("connected")
    assert page.evaluate("import('/ui/api.js').then(({unhurried}) => unhurried(1))") > 1
