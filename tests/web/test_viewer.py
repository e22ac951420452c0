"""Window and zoom of the image, with mouse, keyboard and touch."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gateway.conftest import Site
from tests.web.conftest import MODES, PREDICT, REPORT, open_page, stream, wait_for_state

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="the group dev is not installed")


@pytest.fixture(params=["light", "phone"])
def viewer(request: pytest.FixtureRequest, browser: Any, site: Site) -> Iterator[Any]:
    """The page with the image in which every column has the gray level of its number."""
    with open_page(browser, site.settings.listen, **MODES[request.param]) as page:
        page.locator("#file").set_input_files({"name": "a", "mimeType": "", "buffer": b"x"})
        page.locator("#state:has-text('Ready')").wait_for()
        yield page


def read_row(page: Any) -> list[int]:
    """Gray levels of the first row of the picture."""
    script = "Array.from(document.querySelector('#picture').getContext('2d').getImageData(0, 0, 256, 1).data)"
    levels: list[int] = page.evaluate(script)
    return levels[::4]


def zoom(page: Any) -> int:
    """In percent."""
    return int(page.locator("#zoom-value").inner_text().split()[0])


def set_slider(page: Any, name: str, value: int) -> None:
    """Move a slider with the keyboard's event."""
    page.locator(f"#{name}").fill(str(value))


def test_picture_is_the_servers_until_the_window_moves(viewer: Any) -> None:
    """A window of half the width doubles the contrast around its level; Reset undoes it."""
    assert read_row(viewer) == list(range(256))
    set_slider(viewer, "level", 64)
    set_slider(viewer, "width", 128)
    expected = [min(255, max(0, round(255 * ((x - 63.5) / 127 + 0.5)))) for x in range(256)]
    assert max(abs(a - b) for a, b in zip(read_row(viewer), expected, strict=True)) <= 1
    assert read_row(viewer)[:1] + read_row(viewer)[127:] == [0] + 129 * [255]
    viewer.locator("#reset").click()
    assert read_row(viewer) == list(range(256))


def is_amber(pixel: list[int]) -> bool:
    """Whether a pixel has the color of the boxes, at the edge of a line a part of it; the picture is gray."""
    red, _, blue, _ = pixel
    return red - blue > 100


def test_boxes_of_a_report_are_on_the_picture(viewer: Any, site: Site) -> None:
    """With numbers that the text has too; the window does not remove them, another image does."""
    boxes = [[0.25, 0.25, 0.5, 0.75], [0.6, 0.1, 0.9, 0.9]]
    regions = [{"text": f"Phrase {i}.", "picture_box": box, "box": None, "image": 1} for i, box in enumerate(boxes)]
    site.recorder.answers[PREDICT] = stream(REPORT | {"regions": regions})
    viewer.locator("#write").click()
    wait_for_state(viewer, "finished")
    pixel = "([x, y]) => Array.from(document.querySelector('#picture').getContext('2d').getImageData(x, y, 1, 1).data)"
    edges = [(64, 32), (128, 32), (96, 16), (230, 32)]
    assert all(is_amber(viewer.evaluate(pixel, edge)) for edge in edges)
    assert viewer.locator("#text").inner_text().endswith("Boxes on the image: 1 Phrase 0.; 2 Phrase 1.")
    set_slider(viewer, "level", 64)
    assert all(is_amber(viewer.evaluate(pixel, edge)) for edge in edges)
    viewer.locator("#file").set_input_files({"name": "b", "mimeType": "", "buffer": b"y"})
    wait_for_state(viewer, "Ready")
    assert read_row(viewer) == list(range(256))


def test_sliders_take_keys(viewer: Any) -> None:
    """Arrow keys move a slider that has the focus, and the number next to it."""
    viewer.locator("#level").focus()
    viewer.keyboard.press("ArrowRight")
    assert viewer.locator("#level-value").inner_text() == "129"
    assert read_row(viewer) != list(range(256))


def test_keys_zoom_and_move(viewer: Any) -> None:
    """Plus and minus zoom, arrows move as far as there is picture, 0 resets."""
    viewer.locator("#viewer").focus()
    viewer.keyboard.press("+")
    assert zoom(viewer) == 125
    before = viewer.locator("#picture").bounding_box()
    for _ in range(50):
        viewer.keyboard.press("ArrowRight")
    after, frame = viewer.locator("#picture").bounding_box(), viewer.locator("#viewer").bounding_box()
    assert after["x"] < before["x"]
    assert after["x"] + after["width"] == pytest.approx(frame["x"] + frame["width"], abs=1)
    viewer.keyboard.press("0")
    assert zoom(viewer) == 100
    viewer.keyboard.press("-")
    assert zoom(viewer) == 100


def test_wheel_and_drag(page: Any, choose: Callable[..., None]) -> None:
    """The wheel zooms at the pointer, dragging moves, dragging with the right button sets the window."""
    choose()
    page.locator("#state:has-text('Ready')").wait_for()
    frame = page.locator("#viewer").bounding_box()
    x, y = frame["x"] + frame["width"] / 4, frame["y"] + frame["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    page.locator("#viewer.zoomed").wait_for()
    magnified = page.locator("#picture").bounding_box()
    ratio = zoom(page) / 100
    assert ratio > 1.5
    # The point under the pointer has stayed there.
    assert (x - magnified["x"]) / ratio == pytest.approx(frame["width"] / 4, abs=2)
    page.mouse.down()
    page.mouse.move(x + 30, y)
    page.mouse.up()
    assert page.locator("#picture").bounding_box()["x"] == pytest.approx(magnified["x"] + 30, abs=1)
    page.mouse.down(button="right")
    page.mouse.move(x + 50, y + 10)
    page.mouse.up(button="right")
    assert page.locator("#width-value").inner_text() == "276"
    assert page.locator("#level-value").inner_text() == "138"


def test_pinch(browser: Any, site: Site) -> None:
    """Two fingers zoom the image and not the page; at the picture's own size one finger scrolls the page."""
    with open_page(browser, site.settings.listen, **MODES["phone"]) as page:
        page.locator("#file").set_input_files({"name": "a", "mimeType": "", "buffer": b"x"})
        page.locator("#state:has-text('Ready')").wait_for()
        page.locator("#viewer").scroll_into_view_if_needed()
        frame = page.locator("#viewer").bounding_box()
        x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
        session = page.context.new_cdp_session(page)

        def touch(kind: str, distance: float | None) -> None:
            points = [] if distance is None else [{"x": x - distance, "y": y}, {"x": x + distance, "y": y}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 20)
        for distance in (30, 40, 50, 60):
            touch("touchMove", distance)
        touch("touchEnd", None)
        page.locator("#viewer.zoomed").wait_for()
        assert zoom(page) == pytest.approx(300, abs=60)
        assert page.evaluate("window.visualViewport.scale") == 1
