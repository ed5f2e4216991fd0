"""Each notebook run unchanged, with an empty form."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.browser.fronts import SLOW, Lab, Voila

Front = Lab | Voila


def run_unchanged(front: Front, name: str) -> None:
    front.open(f"{name}.ipynb")
    front.run_all()


@pytest.mark.parametrize("name", ["setup", "preload"])
def test_setup_and_preload_show_table(front, shot, name):
    run_unchanged(front, name)
    front.finish()
    assert front.errors() == []
    table = front.page.locator("table").filter(has_text="model det_10g").last
    table.wait_for(timeout=SLOW)
    table.evaluate("one => one.scrollIntoView()")
    shot(front.page, f"{name}-{front.name}")


@pytest.mark.skipif(find_spec("diffusers") is not None, reason="diffusers would download its model")
def test_portraits_name_missing_extra(front, shot):
    run_unchanged(front, "portraits")
    front.finish()
    assert front.errors() == []
    front.sees("bash setup.sh install portraits")
    shot(front.page, f"portraits-{front.name}")


def test_demo_needs_two_actions(lab, site, shot):
    run_unchanged(lab, "batch_swap")
    cell = lab.cell("3. Run")
    live = cell.locator('[role="progressbar"]').first
    lab.changes(live, "0", attribute="aria-valuenow")
    assert cell.locator("svg").count() >= 3
    cell.scroll_into_view_if_needed()
    shot(lab.page, "batch_swap-live-cell")
    lab.finish()
    assert lab.errors() == []
    assert lab.actions == 2
    results = lab.cell("4. Results")
    assert results.get_by_text("2 of 2 files").is_visible()
    assert results.locator(".pictures img").count() == 6
    assert results.locator(".people img").count() >= 2
    lab.plays(results.locator("video").first)
    shot(lab.page, "batch_swap-results-cell")
    lab.tab("Run")
    panel = lab.cell("2. Choose")
    panel.get_by_text("2 of 2 files").locator("visible=true").first.wait_for()
    lab.plays(panel.locator("video").nth(1))
    panel.locator(".widget-tab").scroll_into_view_if_needed()
    shot(lab.page, "batch_swap-results-tab")


def test_demo_in_voila(voila, site, shot, tmp_path):
    # A new output folder, so that no results are kept from another test's run.
    voila.open(site.copy("batch_swap.ipynb", "demo.ipynb", output_dir=str(tmp_path / "out")))
    voila.finish()
    assert voila.errors() == []
    voila.page.locator(".widget-tab").wait_for(timeout=SLOW)
    voila.sees("The demo is used")
    shot(voila.page, "batch_swap-voila")
    voila.tab("Run")
    voila.press("Start")
    voila.changes(voila.page.locator('[role="progressbar"]').first, "0", attribute="aria-valuenow")
    shot(voila.page, "batch_swap-voila-run")
    voila.sees("2 of 2 files")
    assert voila.actions == 3
    voila.plays(voila.page.locator("video").first)
    shot(voila.page, "batch_swap-voila-results")


def test_machine_is_monitored(front, shot):
    run_unchanged(front, "monitor")
    panel = front.page.locator(".widget-html-content").filter(has_text="RAM").first
    panel.locator("svg").first.wait_for(timeout=SLOW)
    if isinstance(front, Lab):
        front.page.wait_for_timeout(3000)
        panel.evaluate("one => one.scrollIntoView()")
        shot(front.page, "monitor-machine-lab")
        front.interrupt()
    front.finish()
    assert front.errors() == []
    if isinstance(front, Lab):
        assert front.page.get_by_text("Monitored this machine for").last.is_visible()
    else:
        front.sees("keep updating")
        front.changes(panel, panel.text_content() or "")
