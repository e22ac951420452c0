"""From an image to a draft: every way to give one, what is shown, what is sent, and what happens when it fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Site
from tests.web.conftest import CHAT, MODELS, PREDICT, REPORT, answer, failure, models, stream, wait_for_state

pytestmark = pytest.mark.browser
expect = pytest.importorskip("playwright.sync_api", reason="the group dev is not installed").expect

BROKEN = '{"text": "Find"}\n' + json.dumps({"error": {"code": 500, "type": "X", "message": "not finite"}})


def sent(site: Site) -> list[bytes]:
    """Bodies of the requests to /predictions; the first reads the image."""
    return [seen.body for seen in site.recorder.seen if seen.target == PREDICT]


def test_first_report_is_one_click_away(any_page: Any, site: Site) -> None:
    """A sample gives the image, then the report with status, sections, warnings and times; it fits the width."""
    page = any_page
    page.locator("#samples button").click()
    wait_for_state(page, "Draft finished.")
    assert "UNVERIFIED" in page.locator("#report .banner").inner_text()
    assert page.locator("#text p").all_inner_texts() == ["Clear lungs.", "Normal."]
    (warning,) = page.locator("#warnings li").all_inner_texts()[1:]
    assert warning.startswith("The file does not say whether text is part of the picture.")
    assert "(0028,0301) Burned In Annotation is absent" in warning
    facts = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert (facts["Length"], facts["Read image"], facts["Write"]) == ("7 tokens", "0.02 s", "0.04 s")
    assert page.locator("#picture").is_visible()
    expect(page.locator("#text")).to_be_in_viewport()
    assert not page.locator("#chat").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    read, written = sent(site)
    assert b'name="return_image"\r\n\r\ntrue' in read
    assert b"return_image" not in written


def test_page_is_accessible(any_page: Any, site: Site) -> None:
    """Before and after a report, and with an error, axe-core finds nothing serious."""
    from axe_playwright_python.sync_playwright import Axe

    def serious() -> list[str]:
        found = Axe().run(any_page).response["violations"]
        worst = [each for each in found if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in worst]

    assert serious() == []
    any_page.locator("#samples button").click()
    wait_for_state(any_page, "Draft finished.")
    assert serious() == []
    site.recorder.answers[PREDICT] = failure(503, "the server is overloaded")
    any_page.locator("#write").click()
    any_page.locator("#problem").wait_for()
    expect(any_page.locator("#problem")).to_be_in_viewport()
    assert serious() == []


def test_upload_by_keyboard(page: Any, site: Site, choose: Callable[..., None]) -> None:
    """A file is sent without its name, with the options; Enter in a field writes the report."""
    choose()
    wait_for_state(page, "Ready")
    page.locator("#tokens").focus()
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    wait_for_state(page, "Draft finished.")
    read, written = sent(site)
    for body in (read, written):
        assert b"DICOM bytes" in body
        assert b"DOE" not in body
    assert b'name="max_new_tokens"\r\n\r\n1\r\n' in read
    assert b'name="max_new_tokens"\r\n\r\n9\r\n' in written
    assert b'name="stream"\r\n\r\ntrue' in written
    # The button that was replaced by Stop meanwhile can be reached again.
    page.locator("#write").focus()
    page.keyboard.press("Enter")
    wait_for_state(page, "Draft finished.")
    assert page.evaluate("document.activeElement.id") == "write"


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_drop_and_paste(page: Any, site: Site, way: str) -> None:
    """Anywhere on the page; a text that is pasted into a field stays text."""
    page.evaluate(
        """([way]) => {
            const data = new DataTransfer();
            data.items.add(new File(["bytes of an image"], "DOE.png"));
            const given = way === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.querySelector("#report-title").dispatchEvent(given);
            if (way === "drop" && !given.defaultPrevented) throw new Error("the browser would open the file");
        }""",
        [way],
    )
    wait_for_state(page, "Ready")
    assert b"bytes of an image" in sent(site)[0]
    assert b"DOE" not in sent(site)[0]
    page.evaluate("document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer()}))")
    assert len(sent(site)) == 1


def test_sentences_to_confirm_are_marked(any_page: Any, site: Site) -> None:
    """With their confidence, in words. A section lacks the heading of its first sentence; sentences can be equal."""
    page = any_page
    site.recorder.answers[PREDICT] = stream(
        REPORT
        | {
            "report": "Findings: Clear lungs. Normal. Impression: Normal.",
            "sections": {"findings": "Clear lungs. Normal.", "impression": "Normal."},
            "sentences": [
                {"text": "Findings: Clear lungs.", "confidence": 0.4, "confirm": True},
                {"text": "Normal.", "confidence": 0.95, "confirm": False},
                {"text": "Impression: Normal.", "confidence": 0.123, "confirm": True},
            ],
        }
    )
    page.locator("#samples button").click()
    wait_for_state(page, "Draft finished.")
    marked = ["Clear lungs. confirm: confidence 0.40", "Normal. confirm: confidence 0.12"]
    assert page.locator("#text mark").all_inner_texts() == marked
    findings, impression, explained = page.locator("#text p").all_inner_texts()
    assert (findings, impression) == (f"{marked[0]} Normal.", marked[1])
    assert "can be wrong too" in explained


def test_copy(page: Any, site: Site) -> None:
    """What is copied says that it is unverified, and has all drafts."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    site.recorder.answers[PREDICT] = stream(REPORT | {"alternatives": [{"report": "Effusion.", "avg_logprob": -1.0}]})
    page.locator("#drafts").fill("2")
    page.locator("#samples button").click()
    wait_for_state(page, "Draft finished.")
    assert page.locator("#alternatives section").count() == 1
    assert b'name="num_beams"\r\n\r\n2\r\n' in sent(site)[1]
    page.locator("#copy").click()
    page.locator("#saved:has-text('Copied.')").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"UNVERIFIED: {REPORT['report']}\nAlternative 1: Effusion."


@pytest.mark.parametrize(
    ("answered", "texts", "again"),
    [
        (failure(422, "modality: (0008,0060) is MR"), ("refused", "another kind of machine", "is MR"), False),
        (failure(400, "(7FE0,0010) is short", "UnreadableInput"), ("cannot be read", "(7FE0,0010) is short"), False),
        (failure(400, "max_new_tokens is 0", "InvalidOption"), ("option is not allowed", "max_new_tokens"), False),
        (failure(415, "the body looks like text"), ("Not an image", "looks like text"), False),
        # TorchServe's own error, which the gateway replaces.
        (answer("full", 503, "text/plain"), ("busy", "overloaded", "try again"), True),
        (answer("<html>", 502, "text/html"), ("model failed", "failed on this request"), True),
        # The server has died twice on this request.
        (b"", ("model failed", "failed on this request"), True),
        *((answer(body), ("answer cannot be read", "damaged"), True) for body in ("null", "<html>", '{"text": "Fi')),
    ],
)
def test_problems_are_explained(
    page: Any, site: Site, answered: bytes, texts: tuple[str, ...], *, again: bool, choose: Callable[..., None]
) -> None:
    """With a title, in plain words and in the server's; only what can succeed may be tried again."""
    site.recorder.answers[PREDICT] = answered
    choose()
    page.locator("#problem").wait_for()
    shown = page.locator("#problem").inner_text()
    assert all(text in shown for text in texts)
    assert page.locator("#retry").is_visible() is again
    assert page.locator("#write").is_disabled()
    assert not page.locator("#figure").is_visible()
    if again:
        site.recorder.answers[PREDICT] = stream(REPORT)
        page.locator("#retry").click()
        wait_for_state(page, "Ready")
        assert not page.locator("#problem").is_visible()


def test_an_empty_draft_says_so(page: Any, site: Site, choose: Callable[..., None]) -> None:
    """It is not a report that says nothing."""
    choose()
    wait_for_state(page, "Ready")
    empty = {"report": " ", "sections": {"findings": None, "impression": None}}
    site.recorder.answers[PREDICT] = stream(REPORT | empty)
    page.locator("#write").click()
    wait_for_state(page, "The draft is empty.")
    assert "no text" in page.locator("#text").inner_text()


def test_a_long_word_does_not_widen_a_phone(page: Any, site: Site, choose: Callable[..., None]) -> None:
    """Neither in the draft nor in an alternative: the rest of the page would be out of sight."""
    page.set_viewport_size({"width": 360, "height": 600})
    choose()
    wait_for_state(page, "Ready")
    long = {"report": "x" * 1000, "sections": {"findings": None, "impression": None}}
    alternatives = [{"report": "y" * 1000, "avg_logprob": -1.0}]
    site.recorder.answers[PREDICT] = stream(REPORT | long | {"alternatives": alternatives})
    page.locator("#write").click()
    wait_for_state(page, "Draft finished.")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_several_files_are_not_one(page: Any, site: Site) -> None:
    """None is chosen for the user."""
    page.evaluate(
        """() => {
            const given = new DataTransfer();
            for (const name of ["a", "b"]) given.items.add(new File([name], name));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
        }"""
    )
    page.locator("#problem").wait_for()
    assert "Choose one file" in page.locator("#problem").inner_text()
    assert sent(site) == []


def test_a_file_that_cannot_be_read_is_not_a_network_that_is_gone(page: Any, site: Site, tmp_path: Path) -> None:
    """A file that was changed after it was chosen; a folder that is dropped is the same to the browser."""
    image = tmp_path / "image.dcm"
    image.write_bytes(b"before")
    page.locator("#file").set_input_files(image)
    wait_for_state(page, "Ready")
    image.unlink()
    page.locator("#write").click()
    page.locator("#problem").wait_for()
    assert page.locator("#problem-title").inner_text() == "This file cannot be read"
    assert len(sent(site)) == 1


def test_failed_report_leaves_no_text(page: Any, site: Site, choose: Callable[..., None]) -> None:
    """Neither an error in the middle of a stream nor a stream that breaks off leaves a part of a report."""
    choose()
    wait_for_state(page, "Ready")
    for body in (BROKEN, '{"text": "Find"}\n'):
        site.recorder.answers[PREDICT] = answer(body)
        page.locator("#write").click()
        page.locator("#problem").wait_for()
        assert not page.locator("#report").is_visible()
        assert page.locator("#text").inner_text() == ""


def test_without_a_network(page: Any, choose: Callable[..., None]) -> None:
    """The page says so, in its own words, and continues when the network is back."""
    page.context.set_offline(True)
    page.locator("#samples button").click()
    page.locator("#problem-title:has-text('cannot be reached')").wait_for()
    page.context.set_offline(False)
    page.locator("#retry").click()
    wait_for_state(page, "Draft finished.")


def test_slow_and_failed_start(page: Any, choose: Callable[..., None]) -> None:
    """A file that is chosen before the page knows its models waits for them; a failed start can be tried again."""
    waiting: list[Any] = []

    def hold(route: Any) -> None:
        waiting.append(route)

    page.route("**/config.json", hold)
    with page.expect_request("**/config.json"):
        page.reload()
    choose()
    wait_for_state(page, "Reading")
    waiting.pop().abort()
    page.locator("#problem-title:has-text('cannot be reached')").wait_for()
    page.unroute("**/config.json")
    page.locator("#retry").click()
    wait_for_state(page, "Ready")
    assert page.locator("#samples button").count() == 1


def test_missing_key(page: Any, site: Site, choose: Callable[..., None]) -> None:
    """401 asks for a key, and puts the cursor there."""
    page.route("**/config.json", lambda route: route.fulfill(json=route.fetch().json() | {"needs_key": True}))
    error = {"error": {"code": 401, "type": "MissingKey", "message": "the API key is missing or wrong"}}
    # The gateway's own answer, whose keys this site has not.
    page.route("**/predictions/demo", lambda route: route.fulfill(status=401, json=error), times=1)
    page.reload()
    wait_for_state(page, "Choose an image")
    choose()
    page.locator("#problem-title:has-text('API key')").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    site.recorder.answers[PREDICT] = stream(REPORT)
    page.keyboard.type("tests.secret")
    page.locator("#retry").click()
    wait_for_state(page, "Ready")


def test_stop_and_another_image(page: Any, site: Site, choose: Callable[..., None]) -> None:
    """A request that hangs can be stopped; a new image ends it, and only the new one is shown."""
    choose(b"first")
    wait_for_state(page, "Ready")
    held: list[Any] = []

    def hold_two(route: Any) -> None:
        if len(held) == 2:
            route.continue_()
        else:
            held.append(route)

    page.route("**/predictions/demo", hold_two)
    page.locator("#write").click()
    page.locator("#stop").click()
    wait_for_state(page, "Stopped.")
    assert not page.locator("#report").is_visible()
    with page.expect_request("**/predictions/demo") as writing:
        page.locator("#write").click()
    with page.expect_event("requestfailed", lambda request: request == writing.value):
        choose(b"second")
    wait_for_state(page, "Ready")
    assert not page.locator("#problem").is_visible()
    page.locator("#write").click()
    wait_for_state(page, "Draft finished.")
    assert b"second" in sent(site)[-1]


def test_chat_about_the_image(page: Any, site: Site) -> None:
    """A conversational model answers questions; the second carries the first, and a failed one stays in the field."""
    site.recorder.answers[MODELS] = models(chat=True)
    events = ["data: " + json.dumps({"choices": [{"delta": {"content": piece}}]}) for piece in ("No ", "effusion.")]
    site.recorder.answers[CHAT] = answer("\n\n".join([*events, "data: [DONE]", ""]), kind="text/event-stream")
    page.reload()
    page.locator("#samples button").click()
    page.locator("#chat").wait_for()
    for number in (1, 2):
        page.locator("#question").fill("Effusion?")
        page.locator("#question").press("Enter")
        page.locator(f"#turns li:nth-child({2 * number}):has-text('No effusion.')").wait_for()
        wait_for_state(page, "Answered.")
    asked = [json.loads(seen.body) for seen in site.recorder.seen if seen.target == CHAT]
    assert [len(body["messages"]) for body in asked] == [1, 3]
    assert asked[1]["messages"][1] == {"role": "assistant", "content": "No effusion."}
    assert asked[0]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:")
    assert "UNVERIFIED" in page.locator("#turns li").nth(1).inner_text()

    site.recorder.answers[CHAT] = answer("\n\n".join([events[0], ""]), kind="text/event-stream")
    page.locator("#question").fill("And the heart?")
    page.locator("#question").press("Enter")
    page.locator("#problem").wait_for()
    assert page.locator("#turns li").count() == 4
    assert page.locator("#question").input_value() == "And the heart?"
