"""Every page and every route that reads: what stands there, what is escaped, what is refused, what is not sent twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.unit.viewer.made import HOSTILE, policy_run, write, write_lines

PAGES = (
    "/",
    "/runs/alpha",
    "/runs/alpha/samples",
    "/runs/alpha/rows",
    "/runs/alpha/lineage",
    "/runs/alpha/evaluation",
    "/runs/alpha/recipe",
    "/runs/live",
    "/runs/live/samples",
    "/runs/live/rows",
    "/runs/live/evaluation",
    "/compare",
    "/compare?a=alpha&b=live",
    "/parts/runs",
    "/parts/runs/alpha/head",
    "/parts/runs/live/head",
    "/parts/runs/alpha/curves",
)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_there_escaped_and_guarded(browser: TestClient, page: str) -> None:
    answer = browser.get(page)
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(
        r"https?://(?!www\.w3\.org)", re.sub(r"<link rel=.icon[^>]*>", "", answer.text)
    )  # nothing from elsewhere
    if page.startswith("/parts"):
        return
    assert answer.text.count("<h1>") == 1
    assert '<html lang="en">' in answer.text


def test_the_list_shows_state_stage_step_and_curve(browser: TestClient) -> None:
    page = browser.get("/").text
    assert re.findall(r'href="/runs/([^"]+)"', page) == ["live", "beta", "alpha"]
    assert "</span> running</span>" in page
    assert "12 of 40" in page
    assert 'aria-label="reward from 0 to 1.9"' in page
    assert "not-a-run" not in page


def test_the_list_is_filtered_and_sorted(browser: TestClient) -> None:
    def names(query: str) -> list[str]:
        return re.findall(r'href="/runs/([^"]+)"', browser.get(f"/parts/runs?{query}").text)

    assert names("q=bet") == ["beta"]
    assert names("state=running") == ["live"]
    assert names("sort=name") == ["alpha", "beta", "live"]
    assert names("sort=value") == ["alpha", "beta", "live"]
    assert names("sort=state") == ["live", "alpha", "beta"]
    assert "No run is like that; 3 are here." in browser.get("/?q=zzz").text


def test_no_runs_yet(browser: TestClient, runs: Path) -> None:
    for name in ("alpha", "beta", "live"):
        (runs / name).rename(runs / f".{name}")
    assert "No runs yet." in browser.get("/").text


def test_a_working_run_shows_its_actors_notices_and_buttons(browser: TestClient) -> None:
    page = browser.get("/runs/live").text
    for told in ("rollout-0", "HEALTHY", "node-b", "engine rollout-1 was restarted", "0:02:05 to go", "step 12 of 40"):
        assert told in page
    assert 'data-stop="/api/runs/live/stop"' in page
    assert "data-steer" not in browser.get("/runs/alpha").text


def test_only_a_stage_that_can_be_scaled_offers_it(browser: TestClient, runs: Path) -> None:
    page = browser.get("/runs/live").text
    assert 'data-steer="/api/runs/live/scale"' in page
    assert 'name="judge"' not in page
    status = json.loads((runs / "live" / "status.json").read_text())
    judge = {"name": "judge-0", "kind": "judge", "state": "healthy", "node": "", "pid": 0}
    write(runs / "live" / "status.json", {**status, "actors": [judge]})
    page = browser.get("/runs/live").text
    assert 'name="judge"' in page
    assert "<small>0</small>" not in page
    write(runs / "live" / "status.json", {**status, "scalable": False})
    page = browser.get("/runs/live").text
    assert "data-steer" not in page
    assert "Nothing of this stage can be scaled" in page
    assert 'data-stop="/api/runs/live/stop"' in page


def test_the_last_error_is_shown(browser: TestClient, runs: Path) -> None:
    status = json.loads((runs / "live" / "status.json").read_text())
    write(runs / "live" / "status.json", {**status, "state": "failed", "error": f"engine rollout-0 died {HOSTILE}"})
    page = browser.get("/runs/live").text
    assert "Last error" in page
    assert "engine rollout-0 died &lt;/p&gt;" in page
    assert "Failed: ended with an error." in page


def test_curves_of_a_stage_and_chosen_metrics(browser: TestClient) -> None:
    page = browser.get("/parts/runs/alpha/curves").text
    assert "KL to the reference" in page
    assert "20 points." in page
    assert "Loss" in browser.get("/parts/runs/alpha/curves?stage=sft").text
    chosen = browser.get("/parts/runs/alpha/curves?metric=policy/entropy&metric=nope").text
    assert chosen.count("<figure") == 1
    assert "Entropy" in chosen
    assert "No step is recorded yet" in browser.get("/parts/runs/alpha/curves?stage=nope").text


def test_smoothing_is_a_choice(browser: TestClient) -> None:
    plain = browser.get("/parts/runs/alpha/curves?smoothing=0").text
    assert "line raw" not in plain
    assert "line raw" in browser.get("/parts/runs/alpha/curves?smoothing=3").text
    assert browser.get("/parts/runs/alpha/curves?smoothing=bogus").status_code == 200


def test_what_did_not_change_is_not_sent_again(browser: TestClient, runs: Path) -> None:
    for part in ("/parts/runs/alpha/curves", "/parts/runs/alpha/head"):
        first = browser.get(part)
        again = browser.get(part, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    tag = browser.get("/parts/runs/alpha/curves").headers["etag"]
    with (runs / "alpha" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "step": 20, "reward/mean": 9.0}\n')
    assert browser.get("/parts/runs/alpha/curves", headers={"if-none-match": tag}).status_code == 200


def test_a_long_run_sends_little(browser: TestClient, runs: Path) -> None:
    rows = [
        {"stage": "ppo", "step": k, "reward/mean": (k * 7919 % 1000) / 1000, "kl/mean": k / 1e5} for k in range(50_000)
    ]
    write_lines(runs / "long" / "metrics.jsonl", rows)
    answer = browser.get("/parts/runs/long/curves")
    assert "400 points." in answer.text
    assert len(answer.content) < 200_000


def test_damaged_metrics_are_told(browser: TestClient, runs: Path) -> None:
    with (runs / "alpha" / "metrics.jsonl").open("a") as file:
        file.write("nonsense\n")
    assert "1 line of metrics.jsonl could not be read and is left out." in browser.get("/runs/alpha").text


def test_samples_of_a_step(browser: TestClient) -> None:
    page = browser.get("/runs/alpha/samples").text
    assert 'data-steps="0,10"' in page
    assert "<output>10</output>" in page
    assert 'data-tip="+1.50"' in page
    assert "won 62 % of its comparisons" in page
    assert "<output>0</output>" in browser.get("/runs/alpha/samples?stage=ppo&step=7").text
    assert "page 1 of" not in page
    refused = browser.get("/runs/alpha/samples?stage=sft")
    assert refused.status_code == 404
    assert "no samples of a stage &#39;sft&#39;; there are some of: ppo" in refused.text


def test_many_prompts_come_in_pages(browser: TestClient, runs: Path) -> None:
    rows = [{"stage": "ppo", "step": 3, "id": f"r{k}", "prompt": "p", "output": "o", "reward": 0.0} for k in range(9)]
    write_lines(runs / "alpha" / "samples.jsonl", rows)
    first = browser.get("/runs/alpha/samples").text
    assert "page 1 of 3" in first
    assert first.count('<article class="sample') == 4
    assert browser.get("/runs/alpha/samples?page=99").text.count('<article class="sample') == 1


def test_a_row_is_followed(browser: TestClient) -> None:
    page = browser.get("/runs/alpha/rows").text
    for told in (
        "step 0",
        "step 10",
        "step 20",
        "+2.50",
        "Reward of this row",
        "Sampled in training",
        "In the evaluation",
    ):
        assert told in page
    other = browser.get("/runs/alpha/rows?stage=ppo&id=row-1").text
    assert "Asked again and again" not in other
    assert "Nothing is known of the row 'x'" in browser.get("/runs/alpha/rows?stage=ppo&id=x").text
    assert browser.get("/runs/alpha/rows?stage=nope").status_code == 404
    assert "No row was asked at more than one step." in browser.get("/runs/live/rows").text


def test_lineage_leads_across_runs(browser: TestClient) -> None:
    page = browser.get("/runs/beta/lineage").text
    assert 'href="/runs/alpha?stage=sft"' in page
    assert "starts from: alpha:sft" in page


def test_evaluation_and_what_models_were_found_to_be(browser: TestClient, runs: Path) -> None:
    judged = {"num_pairs": 128, "accuracy": estimate_of(0.8), "agreement": 0.75, "first": 0.5}
    write(runs / "alpha" / "stages" / "sft" / "judge.json", judged)
    page = browser.get("/runs/alpha/evaluation").text
    assert "0.400" in page
    assert "Against Base, RL is better on ROUGE-1 (+0.100)." in page
    assert "Of 128 held-out pairs it prefers the better text in 80.0 %" in page
    assert "Nothing was measured on held-out rows yet." in browser.get("/runs/live/evaluation").text


def estimate_of(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def test_runs_are_compared(browser: TestClient) -> None:
    page = browser.get("/compare?a=alpha&b=beta").text
    for told in ("Reward", "alpha: RL", "beta: RL", "<code>seed</code>", "<code>model.name</code>"):
        assert told in page
    assert browser.get("/compare?a=alpha&b=nope").status_code == 404
    chosen = browser.get("/compare?a=alpha&b=beta&metric=policy/entropy").text
    assert chosen.count("<figure") == 1


def test_the_report_is_served_without_scripts(browser: TestClient, runs: Path) -> None:
    missing = browser.get("/runs/alpha/report")
    assert missing.status_code == 404
    assert "has no report yet; `rlft report alpha` builds one" in missing.text
    (runs / "alpha" / "report.html").write_text("<h1>report</h1>")
    answer = browser.get("/runs/alpha/report")
    assert answer.text == "<h1>report</h1>"
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert 'href="/runs/alpha/report"' in browser.get("/runs/alpha").text


def test_recipe_and_files(browser: TestClient) -> None:
    assert "&#34;name&#34;: &#34;alpha&#34;" in browser.get("/runs/alpha/recipe").text
    for name in ("report.css", "viewer.css", "viewer.js", "samples.js"):
        answer = browser.get(f"/static/{name}")
        assert answer.status_code == 200
        assert browser.get(f"/static/{name}", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert browser.get("/static/nope.js").status_code == 404
    assert browser.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "path",
    [
        "/runs/..%2f..%2fetc",
        "/runs/%2e%2e",
        "/runs/.hidden",
        "/runs/alpha%00",
        "/runs/nope",
        "/static/..%2fapp.py",
        "/nope",
    ],
)
def test_path_tricks_and_unknown_names_are_not_there(browser: TestClient, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


def test_a_run_with_torn_files_is_shown_without_them(browser: TestClient, runs: Path) -> None:
    folder = policy_run(runs, "torn")
    for name in ("recipe.resolved.json", "summary.json", "stages/ppo/stage.json", "stages/reward_model/result.json"):
        (folder / name).write_text('{"na')
    (folder / "stages" / "ppo" / "watch.jsonl").write_text("nonsense\n{}\n")
    (folder / "samples.jsonl").write_text('{"stage": "ppo", "st')
    for page in ("", "/samples", "/rows", "/lineage", "/evaluation", "/recipe"):
        assert browser.get(f"/runs/torn{page}").status_code == 200
    assert browser.get("/compare?a=torn&b=alpha").status_code == 200


def test_the_same_as_json(browser: TestClient) -> None:
    found = {run["name"]: run for run in browser.get("/api/runs").json()["runs"]}
    assert sorted(found) == ["alpha", "beta", "live"]
    assert (found["live"]["state"], found["live"]["step"]) == ("running", 12)
    one = browser.get("/api/runs/live").json()
    assert one["headline"]["metric"] == "reward"
    assert one["metrics"]["reward/mean"] == 1.1
    metrics = browser.get("/api/runs/alpha/metrics?stage=ppo&metric=reward/mean&points=2").json()
    assert metrics == {"stages": {"ppo": {"steps": [0, 10], "metrics": {"reward/mean": [0.45, 1.45]}}}}
    assert sorted(browser.get("/api/runs/alpha/metrics").json()["stages"]) == ["ppo", "sft"]
    refused = browser.get("/api/runs/alpha/metrics?stage=dpo")
    assert refused.status_code == 404
    assert refused.json()["error"]["message"] == "'alpha' has recorded no stage 'dpo'; there are: sft, ppo"
    assert browser.get("/api/runs/alpha/metrics?points=0").status_code == 422
    assert browser.get("/api/runs/nope").json()["error"]["message"] == "there is no run 'nope' in this runs folder"
