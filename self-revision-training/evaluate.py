"""Evaluate checkpoints. Knobs: configs/evaluate.yaml, or --help."""

from srt.common.entry_point import run_entry_point


def main(argv: list[str]) -> None:
    from srt.evaluation.config import MAY_CHANGE, EvaluateConfig, split_models
    from srt.knob_help import help_or_refuse

    help_or_refuse(EvaluateConfig, "evaluate", split_models(argv)[1], MAY_CHANGE)
    from srt.evaluation.run import evaluate  # takes seconds: --help need not wait, and Ctrl-C ends it cleanly

    evaluate(argv)


if __name__ == "__main__":
    run_entry_point(main)
