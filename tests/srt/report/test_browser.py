"""Pages in a real browser: no errors, every curve has data, hover and zoom, nothing hidden, new points appear."""

import base64
import json
import shutil
from itertools import product

import pytest

from opsd.run_log import MetricsLog
from tests.srt.helpers.report_logs import collection_attempts, write_attempts
from tests.srt.helpers.report_runs import step_metrics, write_distillation
from tests.srt.report.test_watch import serving

SIZES = (1300, 400)
CHART = "charts.all.get('reward')"


@pytest.fixture(scope="module")
def url(whole) -> str:
    return (whole.folder / "out" / "report.html").as_uri()


@pytest.mark.parametrize(("width", "dark"), product(SIZES, (False, True)))
def test_a_page_opens_without_errors_and_nothing_is_hidden(browser, url, whole, width, dark):
    browser.open(url, width, dark=dark)
    assert browser.errors == []
    assert browser.evaluate("charts.all.size") == len(whole.page.charts)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    # Every element lies within the page; texts that are longer scroll on their own, from top to bottom.
    hidden = browser.evaluate(
        """[...document.querySelectorAll("main *")].filter((node) => {
             const box = node.getBoundingClientRect();
             return box.width && !node.closest("svg, .u-wrap") && (box.right > innerWidth + 1 || box.left < -1);
           }).map((node) => node.outerHTML.slice(0, 120))"""
    )
    assert hidden == []
    scrolled = browser.evaluate(
        "[...document.querySelectorAll('.scroll, .text')].filter((n) => n.scrollWidth > n.clientWidth + 1).length"
    )
    assert scrolled == 0
    page, ink = browser.evaluate("[getComputedStyle(document.body).backgroundColor, cssColor('ink')]")
    assert (page == "rgb(255, 255, 255)") != dark and (ink == "#1d2126") != dark


@pytest.mark.parametrize("dark", [False, True])
def test_every_curve_is_drawn(browser, url, dark):
    browser.open(url, dark=dark)
    empty = browser.evaluate(
        """[...charts.all].filter(([, chart]) => {
             const canvas = chart.plot.querySelector("canvas");
             const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
             return !pixels.some((value, index) => index % 4 === 3 && value > 0)
               || !chart.columns.slice(1).some((column) => column.some((value) => value !== null));
           }).map(([key]) => key)"""
    )
    assert empty == []


def overlay(browser, key: str) -> tuple[float, float, float, float]:
    """x, y, width and height of the area of a chart, within the window."""
    return tuple(
        browser.evaluate(
            f"""(() => {{ const node = document.querySelector('[data-chart={key}] .u-over');
                 node.scrollIntoView({{ block: "center" }});
                 const box = node.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; }})()"""
        )
    )


@pytest.mark.parametrize("width", SIZES)
def test_hovering_shows_the_values_of_that_step(browser, url, width):
    browser.open(url, width)
    legend = "document.querySelector('[data-chart=reward] .legend').textContent"
    assert "training responses79%" in browser.evaluate(legend) and "last" in browser.evaluate(legend)
    x, y, w, h = overlay(browser, "reward")
    browser.mouse("mouseMoved", x + 1, y + h / 2)
    browser.wait_for(f"{legend}.includes('step 0')")
    assert "training responses50%" in browser.evaluate(legend)
    assert "validation avg@450%" in browser.evaluate(legend)
    browser.mouse("mouseMoved", x + w / 29 * 10, y + h / 2)
    browser.wait_for(f"{legend}.includes('step 10')")
    assert "validation avg@460%" in browser.evaluate(legend)


def test_dragging_zooms_in_and_the_button_ends_it(browser, url):
    browser.open(url)
    x, y, w, h = overlay(browser, "reward")
    browser.mouse("mouseMoved", x + w * 0.5, y + h / 2)
    browser.mouse("mousePressed", x + w * 0.5, y + h / 2, "left", 1)
    browser.mouse("mouseMoved", x + w * 0.9, y + h / 2, "left")
    browser.mouse("mouseReleased", x + w * 0.9, y + h / 2, "left", 1)
    zoom = browser.wait_for(f"{CHART}.zoom")
    assert 13 < zoom["min"] < 16 and 24 < zoom["max"] < 28
    browser.evaluate(f"{CHART}.resetButton.click()")
    assert browser.evaluate(f"[{CHART}.zoom, {CHART}.uplot.scales.x.min]") == [None, 0]
    assert browser.errors == []


def test_a_logarithmic_axis_and_hidden_curves(browser, url):
    browser.open(url)
    chart = "charts.all.get('kl')"
    assert browser.evaluate(f"[{chart}.log, {chart}.uplot.scales.y.distr]") == [False, 1]
    browser.evaluate(f"{chart}.logButton.click()")
    assert browser.evaluate(f"[{chart}.log, {chart}.uplot.scales.y.distr]") == [True, 3]
    browser.evaluate("document.querySelector('[data-chart=kl] .legend button').click()")
    shown = browser.evaluate(f"{chart}.uplot.series.slice(1).map((series) => series.show)")
    assert shown.count(False) >= 1 and shown.count(True) >= 1
    assert browser.errors == []


def test_a_plot_can_be_saved_as_svg_and_png_and_its_data_as_csv(browser, url, whole):
    browser.open(url)
    svg = browser.evaluate(f"chartSvg({CHART})[0]")
    assert svg.startswith("<svg xmlns=") and "Reward" in svg and "validation avg@4" in svg and "var(" not in svg
    parsed = f"new DOMParser().parseFromString(chartSvg({CHART})[0], 'image/svg+xml')"
    assert browser.evaluate(f"{parsed}.querySelectorAll('path').length") > 5
    for picture in (f"chartSvg({CHART})", "exporting.standalone(document.querySelector('[data-picture] svg'))"):
        data = browser.evaluate(
            f"""(async () => {{ const reader = new FileReader();
                 const done = new Promise((resolve) => (reader.onload = resolve));
                 reader.readAsDataURL(await exporting.png(...{picture}));
                 await done; return reader.result; }})()"""
        )
        png = base64.b64decode(data.partition(",")[2])
        assert png.startswith(b"\x89PNG") and len(png) > 4000
    picture = browser.evaluate("exporting.standalone(document.querySelector('[data-picture] svg'))[0]")
    assert "var(" not in picture and "fill: rgb(" in picture
    rows = browser.evaluate(f"exporting.csv({CHART}.rows())").splitlines()
    names = "step,training responses,validation avg@4,validation pass@4"
    assert rows[:2] == [names, "0,0.5,0.5,0.8"] and len(rows) == 31
    saved = browser.evaluate(
        """(() => { const names = []; exporting.save = (name) => names.push(name);
             for (const node of document.querySelectorAll("[data-chart=kl] .tools button"))
               if (["SVG", "CSV"].includes(node.textContent)) node.click();
             for (const node of document.querySelectorAll("[data-picture=accuracy] .tools button"))
               if (["SVG", "CSV"].includes(node.textContent)) node.click();
             return names; })()"""
    )
    assert saved == ["kl.svg", "kl.csv", "accuracy.svg", "accuracy.csv"]
    assert browser.errors == []


def choose(browser, widget: str, label: str, value: str) -> None:
    browser.evaluate(
        f"""(() => {{ const root = document.querySelector("[data-widget={widget}]");
             const labels = [...root.querySelectorAll("label")];
             const label = labels.find((node) => node.textContent.startsWith("{label}"));
             const input = label.querySelector("select, input");
             input.value = {json.dumps(value)};
             input.dispatchEvent(new Event(input.tagName === "SELECT" ? "change" : "input")); }})()"""
    )


def text_of(browser, widget: str) -> str:
    return browser.evaluate(f"document.querySelector('[data-widget={widget}]').textContent")


def test_attempts_are_filtered_and_searched(browser, url):
    browser.open(url)
    assert "1 to 3 of 40" in text_of(browser, "attempts")
    choose(browser, "attempts", "outcome", "right to wrong")
    text = text_of(browser, "attempts")
    assert "1 to 3 of 8" in text and "y_init, correct: 7" in text and "y_revised, wrong: 7" in text
    choose(browser, "attempts", "search", "p7")
    assert "1 of 1" in text_of(browser, "attempts") and "problem p7" in text_of(browser, "attempts")
    choose(browser, "attempts", "search", "nothing like this")
    assert "none" in text_of(browser, "attempts")


def test_a_problem_is_shown_in_every_stage(browser, url):
    browser.open(url)
    text = text_of(browser, "problems")
    for part in ("base: 0 of 8 right", "after stage 2 (SRT): 4 of 8 right", "(SD-Zero): 6 of 8 right", "1 of 3"):
        assert part in text
    browser.evaluate("[...document.querySelectorAll('[data-widget=problems] button')].at(-1).click()")
    assert "problem p1" in text_of(browser, "problems")


def test_the_strongest_tint_is_on_the_token_with_the_most_kl(browser, url):
    browser.open(url)
    tints = browser.evaluate(
        """[...document.querySelectorAll("[data-widget=samples] .box b")].map((node) =>
             [node.textContent, node.title, getComputedStyle(node).getPropertyValue("--k")])"""
    )
    assert tints == [["8", "2.0000 nats", "1.00"]]
    colors = browser.evaluate(
        "[...document.querySelectorAll('.scale b')].map((node) => getComputedStyle(node).backgroundColor)"
    )
    assert len(set(colors)) == 10


def test_new_points_appear_without_a_reload_and_the_zoom_stays(browser, tmp_path):
    write_distillation(tmp_path, steps=25)
    with serving(tmp_path) as server:
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        browser.evaluate("live.period = 100; window.sameWindow = true")
        browser.wait_for("live.etag")
        browser.evaluate(f"{CHART}.uplot.setScale('x', {{ min: 5, max: 15 }})")
        assert len(browser.evaluate(f"{CHART}.curves[0].x")) == 25
        log = MetricsLog(tmp_path, 25, "none")
        for step in range(25, 40):
            log.write(step, step_metrics(step))
        log.close()
        browser.wait_for(f"{CHART}.curves[0].x.length === 40")
        browser.wait_for("live.line.textContent.includes('as of')")
        assert browser.evaluate(f"{CHART}.zoom") == {"min": 5, "max": 15}
        legend = "document.querySelector('[data-chart=reward] .legend')"
        assert "training responses89%" in browser.evaluate(f"{legend}.textContent")  # of the last step
        browser.evaluate(f"{legend}.querySelector('button').click()")
        assert browser.evaluate(f"{CHART}.uplot.series[1].show") is False
        assert "40 steps" in browser.evaluate("document.body.textContent")
        assert browser.evaluate("window.sameWindow") and browser.errors == []


def test_texts_that_are_read_stay_where_they_are_while_a_run_goes_on(browser, whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    with serving(tmp_path / "run") as server:
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        choose(browser, "attempts", "outcome", "right to right")
        article = "document.querySelector('[data-widget=attempts] article')"
        browser.evaluate(f"live.period = 100; window.shown = {article}")
        warning = json.dumps({"step": 20, "warning": "the reward fell again"})
        with (tmp_path / "run" / "distillation" / "warnings.jsonl").open("a") as file:
            file.write(f"{warning}\n")
        browser.wait_for("document.body.textContent.includes('the reward fell again')")
        assert browser.evaluate("window.shown.isConnected")
        write_attempts(tmp_path / "run" / "collection", collection_attempts(45))  # five more problems
        browser.wait_for(f"!{article}.isSameNode(window.shown)")
        assert browser.evaluate("document.querySelectorAll('[data-picture] .tools').length") == 3
        assert "right to right" in browser.evaluate(
            "document.querySelector('[data-widget=attempts] select').selectedOptions[0].textContent"
        )
        assert browser.errors == []
