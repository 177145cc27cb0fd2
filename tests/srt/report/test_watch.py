"""The live page: what its server answers, and to whom."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

import pytest

from opsd.run_log import MetricsLog
from srt.common.errors import UserError
from srt.report.folders import find_run
from srt.report.page import render_page
from srt.report.run import read_runs, report
from srt.report.watch import LivePage, open_server
from tests.srt.helpers.report_runs import Page, step_metrics, write_distillation


@contextmanager
def serving(*paths) -> Iterator[ThreadingHTTPServer]:
    page = LivePage(
        lambda: [find_run(path) for path in paths],
        lambda folders: render_page(read_runs(folders, 10), 3, 10, live=True),
    )
    with open_server(page, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """(status, body, ETag)"""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body, response.headers.get("ETag", "")


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_new_steps_appear_and_nothing_is_sent_while_nothing_changes(tmp_path):
    folder = tmp_path / "run"
    write_distillation(folder, steps=3)
    before = contents(tmp_path)
    with serving(folder) as server:
        status, body, etag = ask(server)
        assert status == 200 and len(Page(body).points("reward", "training responses")) == 3
        assert ask(server, If_None_Match=etag) == (304, "", "")
        assert contents(tmp_path) == before
        log = MetricsLog(folder, 3, "none")
        log.write(3, step_metrics(3))
        log.close()
        status, body, new = ask(server, If_None_Match=etag)
        assert status == 200 and new != etag
        assert len(Page(body).points("reward", "training responses")) == 4


def test_a_part_that_begins_later_appears(tmp_path):
    write_distillation(tmp_path / "run" / "sd", steps=1)
    with serving(tmp_path / "run") as server:
        assert "Phase 1: collection of self-revisions" not in ask(server)[1]
        (tmp_path / "run" / "collection").mkdir()
        results = {"responses": 4, "tuples": 1}
        record = {"config": {"target_revision_samples": 1}, "results": results}
        (tmp_path / "run" / "collection" / "run.json").write_text(json.dumps(record))
        assert "Phase 1: collection of self-revisions" in ask(server)[1]


def test_only_this_machine_s_own_pages_may_read(tmp_path):
    write_distillation(tmp_path, steps=1)
    with serving(tmp_path) as server:
        port = server.server_port
        assert server.server_address[0] == "127.0.0.1"
        assert ask(server, Host=f"localhost:{port}")[0] == 200
        assert ask(server, Host=f"evil.example:{port}")[0] == 403
        for path in ("/run.json", "/../run.json", "/metrics.jsonl"):
            assert ask(server, path)[0] == 404
        for method in ("POST", "PUT", "DELETE"):
            assert ask(server, method=method)[0] == 501
        assert "connect-src 'self'" in ask(server)[1]


def test_a_file_that_is_damaged_for_a_while_is_named(tmp_path):
    write_distillation(tmp_path, steps=1)
    whole = (tmp_path / "run.json").read_text()
    with serving(tmp_path) as server:
        (tmp_path / "run.json").write_text(whole[:40])
        status, body, _ = ask(server)
        assert status == 503 and f"{tmp_path / 'run.json'}: not readable as JSON" in body and "refresh" in body
        (tmp_path / "run.json").write_text(whole)
        assert ask(server)[0] == 200


def test_a_port_that_is_taken_is_named(tmp_path):
    write_distillation(tmp_path, steps=1)
    with serving(tmp_path) as server:
        port = server.server_port
        with pytest.raises(UserError, match=f"WATCH_PORT={port}: 127.0.0.1:{port} cannot be opened"):
            report([str(tmp_path), "--watch", f"watch_port={port}"])


def test_what_is_no_run_is_refused_before_anything_is_served(tmp_path):
    with pytest.raises(UserError, match="is not the output of a run"):
        report([str(tmp_path), "--watch", "watch_port=0"])
