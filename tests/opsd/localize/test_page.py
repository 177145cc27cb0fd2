"""localization.html in a headless browser: light and dark, wide and narrow, pointing and walking with keys."""

import dataclasses
import json

import pytest

from opsd.localize.config import ModelPair
from opsd.localize.page import write_page
from opsd.localize.summary import summarize
from tests.opsd.helpers.localization import scored
from tests.srt.helpers.browser import Browser

X = "x = 3 [A] + 4 [B] * 2"
WRONG = ["A", " 3", " +", " 4", " =", " 8", "\nB", " 8", " *", " 2", " =", " 6", "\n\\boxed{", "6", "}"]
RIGHT = ["A", " 3", " +", " 4", " =", " 7", "\nB", " 7", " *", " 2", " =", " 4", "\n\\boxed{", "4", "}"]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script ",
    "</script x",
    "<img src=x onerror=alert(1)>",
    "\u2028 &amp;",
    " \ud800",
]


def responses(shift=0.0):
    """Two wrong ones with a peak at the error, a right one with a lower peak, and one that is hostile."""
    wrong = [0.001 + shift] * 15
    wrong[5], wrong[12] = 4.0 + shift, 1.0
    right = [0.001] * 15
    right[3] = 0.4
    return [
        scored(WRONG, wrong, x=X, problem=0, moved=wrong),
        scored(RIGHT, right, r=1, x=X, problem=1),
        scored(WRONG, wrong, x=X, problem=2, moved=wrong),
        scored(HOSTILE, [0.001 * index for index in range(len(HOSTILE))], r=1, x="</script>", problem=3),
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory, layout):
    """Of two pairs."""
    path = tmp_path_factory.mktemp("page") / "localization.html"
    by_name = {"SRT": responses(), "SD-Zero <b>": responses(shift=0.2)}
    pairs = [summarize(ModelPair(name, "m/srt", "m/srt"), one, layout, seed=0) for name, one in by_name.items()]
    content = {"dataset": "some.jsonl", "neutral_phrase": "Once more.", "unfinished": [], "pairs": pairs}
    write_page(path, content, by_name, dict.fromkeys(by_name, layout.tokenizer), examples=3)
    return path


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def open_page(browser, page):
    def open_page(**options) -> Browser:
        browser.open(page.as_uri(), **options)
        return browser

    yield open_page
    assert browser.errors == []


def texts(browser, selector):
    return browser.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((n) => n.textContent)")


def tints(browser):
    return browser.evaluate(
        "state.tokens.map(({node}) => parseFloat(getComputedStyle(node).getPropertyValue('--h')))"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1300, 400])
def test_everything_is_there_in_every_setting(open_page, width, dark):
    browser = open_page(width=width, dark=dark)
    heads = texts(browser, "h2")
    assert heads == ["Token by token", "KL mass by token rank", "Copying", "What the phrase does", "First error"]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    charts = browser.evaluate("[...document.querySelectorAll('figure.chart svg')].map((s) => s.innerHTML)")
    assert len(charts) == 2 * (3 + 2) + 2
    assert all("<path" in chart or "<rect" in chart for chart in charts)
    assert not any("NaN" in chart or "None" in chart for chart in charts)
    paper, ink = browser.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (paper, ink)]
    assert (brightness[0] < brightness[1]) == dark


def test_columns_are_wrong_and_right_side_by_side(open_page):
    browser = open_page()
    verdicts = texts(browser, ".sides article header span")
    assert verdicts == ["wrong", "right", "wrong", "right"]
    left, right = browser.evaluate(
        "[...document.querySelectorAll('.sides article')].slice(0, 2).map((a) => a.getBoundingClientRect().left)"
    )
    assert left + 300 < right
    narrow = open_page(width=400)
    lefts = narrow.evaluate("[...document.querySelectorAll('.sides article')].map((a) => a.offsetLeft)")
    assert len(set(lefts)) == 1


def test_tokens_are_tinted_by_the_chosen_measure(open_page):
    browser = open_page()
    by_kl = tints(browser)
    assert by_kl[5] == max(by_kl) > 0.5 > by_kl[12] > 0
    assert by_kl[0] == 0
    browser.evaluate("document.querySelector('[data-mode=ratio]').click()")
    assert texts(browser, "[aria-pressed=true]") == ["probability ratio"]
    assert tints(browser)[0] > 0.5  # the same log-ratio, -0.2, everywhere
    assert browser.evaluate("document.querySelectorAll('.sides b.up').length") == 0
    browser.evaluate("document.querySelector('[data-mode=phrase]').click()")
    assert tints(browser)[0] > 0.5  # -0.9 against -1 everywhere
    assert browser.evaluate("document.querySelectorAll('.sides b.up').length") == len(tints(browser))
    browser.evaluate("document.querySelector('[data-mode=studentEntropy]').click()")
    assert "0.50" in texts(browser, "#scale")[0]
    browser.evaluate("document.querySelector('[data-mode=teacherEntropy]').click()")
    assert "0.40" in texts(browser, "#scale")[0]


def test_pointing_at_a_token_shows_both_distributions(open_page):
    browser = open_page()
    x, y = browser.evaluate(
        "(() => { const b = state.tokens[5].node.getBoundingClientRect();"
        " window.scrollTo(0, b.top - 300); const c = state.tokens[5].node.getBoundingClientRect();"
        " return [c.left + c.width / 2, c.top + c.height / 2]; })()"
    )
    browser.mouse("mouseMoved", x, y)
    panel = browser.wait_for(
        "!document.getElementById('panel').hidden && document.getElementById('panel').innerText"
    )
    assert "token 6 of 15" in panel and "KL 4.0000" in panel
    assert "-0.700" in panel and "-0.900" in panel  # log-probs
    assert "50.0%" in panel and "30.0%" in panel  # alternatives
    assert "no phrase" in panel and "neutral sentence" in panel
    assert browser.evaluate(
        "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)(document.getElementById('panel'))"
    )
    box = browser.evaluate(
        "(({top, bottom}) => [top, bottom])(document.getElementById('panel').getBoundingClientRect())"
    )
    assert 0 <= box[0] < box[1] <= 900
    browser.mouse("mouseMoved", 5, 5)
    browser.wait_for("document.getElementById('panel').hidden")


def test_keys_walk_the_hot_tokens_in_order_and_around(open_page):
    browser = open_page()

    def press(key):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
        browser.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        return browser.evaluate("state.current")

    hot = browser.evaluate("state.hot")
    assert len(hot) >= 2 and 5 in hot
    assert [press("n") for _ in range(len(hot) + 1)] == [*hot, hot[0]]
    assert press("p") == hot[-1]
    assert browser.evaluate("document.querySelectorAll('b.current').length") == 1
    top, bottom = browser.evaluate(
        "(({top, bottom}) => [top, bottom])(document.querySelector('b.current').getBoundingClientRect())"
    )
    assert 0 <= top < bottom <= 900
    assert press("Escape") is None
    browser.evaluate("document.getElementById('next').click()")
    assert browser.evaluate("state.current") == hot[0]


def test_the_other_pair_can_be_chosen(open_page):
    browser = open_page()
    assert texts(browser, "#pair option") == ["SRT", "SD-Zero <b>"]
    before = browser.evaluate("document.querySelector('.sides article header').textContent")
    browser.evaluate("document.getElementById('pair').value = '1'")
    browser.evaluate("document.getElementById('pair').dispatchEvent(new Event('change'))")
    after = browser.evaluate("document.querySelector('.sides article header').textContent")
    assert before != after


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_chart_can_be_saved(open_page, dark):
    browser = open_page(dark=dark)
    saved = browser.evaluate(
        """(() => { const saved = {}; exporting.save = (name, blob) => (saved[name] = blob);
             for (const node of document.querySelectorAll(".tools button"))
               if (node.textContent !== "PNG") node.click();
             const read = async ([name, blob]) => [name, await blob.text()];
             return Promise.all(Object.entries(saved).map(read)); })()"""
    )
    files = dict(saved)
    assert len(files) == 2 * browser.evaluate("document.querySelectorAll('figure.chart').length") == 24
    assert files["SRT-kl-by-rank.csv"].startswith(
        'rank,"wrong (r = 0), 2 responses","right (r = 1), 2 responses"\n1,4,'
    )
    assert len(files["SRT-kl-by-rank.csv"].splitlines()) == 1 + 15
    assert files["SD-Zero-b-kl-peak.csv"].splitlines()[0] == "tokens behind the error,share of the responses"
    assert files["SRT-kl-by-kind.csv"].splitlines()[0].startswith(",")
    for name, text in files.items():
        if name.endswith(".svg"):  # colors of its own: the page's style does not come along
            assert "var(" not in text and "fill: rgb(" in text, name
    assert "wrong (r = 0), 2 responses" in files["SRT-kl-by-rank.svg"]  # the legend is in the picture


def test_what_a_model_wrote_is_text(open_page):
    browser = open_page()
    assert browser.evaluate("document.images.length") == 0
    shown = texts(browser, ".sides article .box")[3]
    assert shown.startswith(
        "</script><script>alert(1)</script><!--<script </script x<img src=x onerror=alert(1)>\u2028 &amp;"
    )


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run(page):
    html = page.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "default-src 'none'" in html and "script-src 'sha256-" in html
    assert "http://" not in html and "https://" not in html


def test_a_page_without_examples_or_variants(browser, tmp_path, layout):
    bare = [dataclasses.replace(one, variants={}) for one in responses() if one.r == 1]
    summary = summarize(ModelPair("only", "m", "t"), bare, layout, seed=0)
    content = {"dataset": "d", "neutral_phrase": "", "unfinished": ["later"], "pairs": [summary]}
    path = tmp_path / "page.html"
    write_page(path, content, {"only": bare}, {"only": layout.tokenizer}, examples=0)
    browser.open(path.as_uri())
    assert browser.errors == []
    text = browser.evaluate("document.body.innerText")
    assert "Not finished yet: later." in text and "Token by token" not in text and "COMPARE_PHRASES=0" in text


def test_without_variants_there_is_no_mode_for_the_phrase(browser, tmp_path, layout):
    bare = [dataclasses.replace(one, variants={}) for one in responses()]
    content = {"dataset": "d", "neutral_phrase": "", "unfinished": []}
    content["pairs"] = [summarize(ModelPair("only", "m", "t"), bare, layout, seed=0)]
    path = tmp_path / "page.html"
    write_page(path, content, {"only": bare}, {"only": layout.tokenizer}, examples=1)
    browser.open(path.as_uri())
    modes = browser.evaluate("[...document.querySelectorAll('[data-mode]')].map((b) => b.dataset.mode)")
    assert modes == ["kl", "ratio", "studentEntropy", "teacherEntropy"]
    browser.evaluate("select(3)")
    assert "teacher behind" not in browser.evaluate("document.getElementById('panel').innerText")
    assert browser.errors == []


def test_no_tick_is_cut_off(browser, tmp_path, layout):
    path = tmp_path / "localization.html"
    long = scored(["A"] * 1000, [0.001] * 1000, x=X)
    pair = summarize(ModelPair("SRT", "m/srt", "m/srt"), [long], layout, seed=0)
    content = {"dataset": "some.jsonl", "neutral_phrase": "", "unfinished": [], "pairs": [pair]}
    write_page(path, content, {"SRT": [long]}, {"SRT": layout.tokenizer}, examples=1)
    browser.open(path.as_uri())
    ends = browser.evaluate(
        """[...document.querySelectorAll(".chart svg text")].map((text) => {
             const box = text.getBBox();
             return [text.textContent, box.x + box.width, text.ownerSVGElement.viewBox.baseVal.width];
           })"""
    )
    assert "1000" in [text for text, _, _ in ends]
    assert [text for text, end, width in ends if end > width] == []
