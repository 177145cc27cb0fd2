"""Texts to look through: which of them are on the page, and what the page says of them."""

from srt.report.attempts import Attempts, read_attempts
from srt.report.browse import MAX_TEXT, kl_concentration, kl_samples, phrase_tokens, shortened
from tests.srt.helpers.report_logs import collection_attempts, evaluation_attempts, write_attempts
from tests.srt.helpers.report_runs import (
    PHRASES,
    Page,
    make_report,
    response,
    sample,
    write_collection,
    write_distillation,
    write_evaluation,
)


def widgets(run, *config: str) -> dict:
    return Page(make_report(run, *config)[1]).data["widgets"]


# Attempts -----------------------------------------------------------------------------------------------


def test_attempts_are_shared_out_over_the_outcomes(tmp_path):
    write_collection(tmp_path / "collection")
    write_attempts(tmp_path / "collection", collection_attempts(40))
    found = widgets(tmp_path, "browse=20")["attempts"]["run"]
    assert found["total"] == {
        "wrong to right": 8,
        "wrong to wrong": 8,
        "right to right": 8,
        "right to wrong": 8,
        "not revised": 8,
    }
    outcomes = [attempt["outcome"] for attempt in found["attempts"]]
    assert {name: outcomes.count(name) for name in found["total"]} == dict.fromkeys(found["total"], 4)
    assert len(widgets(tmp_path, "browse=1000")["attempts"]["run"]["attempts"]) == 40


def test_an_attempt_says_what_was_graded_and_whether_it_was_kept(tmp_path):
    write_collection(tmp_path / "collection")  # the tuples of problems 0 to 4, all revisions of wrong responses
    write_attempts(tmp_path / "collection", collection_attempts(8, y_init="first"))
    attempts = widgets(tmp_path)["attempts"]["run"]["attempts"]
    by_id = {attempt["id"]: attempt for attempt in attempts}
    assert by_id["p0"].items() >= {"y": "first", "y_r": 0, "y_answer": "8", "revised_r": 1, "kept": True}.items()
    assert by_id["p0"]["p_r"] == PHRASES.wrong
    assert by_id["p5"]["outcome"] == "wrong to wrong" and by_id["p5"]["kept"] is False
    assert "revised" not in by_id["p4"] and by_id["p4"]["outcome"] == "not revised"


def test_right_revisions_are_counted_whether_they_were_kept_or_not(tmp_path):
    write_collection(tmp_path / "collection")  # of 5 kept tuples, by a version that did not count the right ones
    write_attempts(tmp_path / "collection", collection_attempts(40))
    page = Page(make_report(tmp_path)[1])
    assert "correct revisions16" in "".join(page.text.split("\n"))
    assert "tuples written5" in page.text


def test_no_texts_of_models_with_examples_0(tmp_path):
    write_collection(tmp_path / "collection")
    write_attempts(tmp_path / "collection", collection_attempts(8))
    write_distillation(tmp_path / "distillation", steps=2)
    html = make_report(tmp_path, "examples=0")[1]
    page = Page(html)
    assert page.data["widgets"] == {"examples": 0}
    assert "Where the teacher disagrees" not in page.headings and "Attempts" not in page.headings
    assert "Phase 1: collection of self-revisions" in page.headings
    assert Page(make_report(tmp_path, "examples=7")[1]).data["widgets"]["examples"] == 7


def test_damaged_lines_of_attempts_are_counted_and_left_out(tmp_path):
    write_attempts(tmp_path, collection_attempts(2))
    with (tmp_path / "attempts.jsonl").open("ab") as file:
        file.write(b'null\n{"kind":\n{"problem_idx": 1}\n\xff\n{"kind": "response", "problem_idx"')
    missing: list[str] = []
    attempts = read_attempts(tmp_path / "attempts.jsonl", missing)
    assert len(attempts.responses) == len(attempts.revisions) == 2
    assert missing == [f"{tmp_path / 'attempts.jsonl'}: 4 damaged lines are left out"]
    assert "y_init_ids" not in attempts.responses[0, 0]
    assert read_attempts(tmp_path / "none.jsonl", missing) == Attempts() and "none.jsonl is missing" in missing[-1]


def test_a_long_text_lacks_its_middle():
    text = "begin" + "x" * 50_000 + "end"
    short = shortened(text)
    assert len(short) < MAX_TEXT + 100 and short.startswith("begin") and short.endswith("end")
    assert f"{len(text) - MAX_TEXT:,} characters left out" in short
    assert shortened("x" * MAX_TEXT) == "x" * MAX_TEXT


# The same problem in every stage ------------------------------------------------------------------------


def test_the_same_problem_is_shown_for_every_stage_that_answered_it(tmp_path):
    for key, right, problems in (("base", 2, 5), ("srt", 5, 4), ("sd_zero", 8, 5)):
        write_evaluation(tmp_path / "evaluation" / key, correct=right)
        write_attempts(tmp_path / "evaluation" / key, evaluation_attempts(right, problems=problems))
    write_evaluation(tmp_path / "evaluation" / "stage1", correct=3)  # without attempts
    found = widgets(tmp_path)["problems"]
    assert found["stages"] == ["base", "after stage 2 (SRT)", "after self-distillation (SD-Zero)"]
    assert [problem["id"] for problem in found["problems"]] == ["p0", "p1", "p2", "p3"] and found["total"] == 4
    answers = found["problems"][0]["stages"]
    assert [(answer["right"], answer["of"]) for answer in answers] == [(2, 8), (5, 8), (8, 8)]
    assert answers[0]["y"] == "answer 0" and answers[0]["p_r"] == PHRASES.right and answers[0]["revised_r"] == 1
    assert len(widgets(tmp_path, "browse=2")["problems"]["problems"]) == 2


def test_only_the_responses_that_avg_at_k_counts_are_counted(tmp_path):
    for key in ("base", "sd_zero"):
        write_evaluation(tmp_path / "evaluation" / key, correct=2, k=4)
        greedy = [response(problem, -1, True, "greedy") for problem in range(3)]
        write_attempts(
            tmp_path / "evaluation" / key, [*greedy, *evaluation_attempts(3, k=6)]
        )  # 6 of an earlier run
    (answer, _) = widgets(tmp_path)["problems"]["problems"][0]["stages"]
    assert (answer["right"], answer["of"], answer["y"]) == (3, 4, "answer 0")


# Responses with the KL of each token --------------------------------------------------------------------


def test_tokens_of_a_control_phrase_are_found_however_it_is_split():
    phrase = "Wait, this is wrong."
    tokens = ["A", " 1", "\n\nWait", ",", " this is", " wrong", ".\n", "B"]
    assert phrase_tokens(tokens, [phrase]) == [2, 3, 4, 5, 6]
    assert phrase_tokens([f"\n\n{phrase}\n\n", "x", phrase], [phrase, "other"]) == [0, 2]
    assert phrase_tokens(tokens, ["", "absent"]) == []


def test_a_logged_response_marks_the_phrase_it_contains():
    record = sample(0, ["a", PHRASES.wrong, "b"], [0.1, 9.0, 0.2])
    (shown,) = kl_samples([record])
    assert shown["phrase"] == [1] and shown["kl"] == [0.1, 9.0, 0.2]


def test_a_long_response_is_cut_to_the_window_with_the_most_kl():
    kl = [0.0] * 5000
    kl[3000] = 2.0
    tokens = [f"<{index}>" for index in range(5000)]
    tokens[3001] = PHRASES.wrong
    (shown,) = kl_samples([sample(0, tokens, kl)])
    assert len(shown["tokens"]) == 800 and "<3000>" in shown["tokens"]
    assert shown["before"] + shown["after"] == 4200
    assert shown["tokens"][0] == f"<{shown['before']}>"
    assert [shown["tokens"][index] for index in shown["phrase"]] == [PHRASES.wrong]


def test_every_logged_step_can_be_chosen_from(tmp_path):
    samples = [sample(r, ["x"], [0.1], step=step) for step in range(200) for r in (0, 1)]
    shown = kl_samples(samples)
    assert len(shown) == 240 and {0, 199} <= {record["step"] for record in shown}
    assert len({record["step"] for record in shown}) > 150


def test_the_share_of_the_tokens_with_the_most_kl():
    found = kl_concentration([sample(0, list("abcdefghij"), [9.0] + [0.111] * 9)], 0)
    assert found.responses == 1 and round(found.top_tenth_share, 2) == 0.9
    assert kl_concentration([sample(0, ["a"], [0.0])], 0) is None
    assert kl_concentration([sample(0, ["a"], [1.0])], 1) is None
