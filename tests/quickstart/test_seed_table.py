"""The table of several quickstarts."""

from quickstart.seed_table import seed_table


def stage(accuracy, tokens):
    return {"avg_at_8": accuracy, "mean_response_tokens": tokens}


def test_one_line_per_seed_with_the_gain_over_the_base_model():
    stages = {"base": stage(0.5, 34), "stage1": stage(0.7, 67), "srt": stage(0.8, 60), "sd_zero": stage(0.925, 34)}
    heading, rule, row = seed_table({"3": stages}).splitlines()
    assert row == "| 3 | 50.0 | 70.0 | 80.0 | 92.5 | +42.5 | 34 | 60 | 34 |"
    assert heading.count("|") == rule.count("|") == row.count("|")
