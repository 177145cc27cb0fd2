"""Evaluations with the real grader and scripted samplers, so that models differ in a known way."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from srt.common.files import read_json, write_jsonl
from srt.common.models import load_tokenizer
from srt.evaluation.run import evaluate
from tests.srt.helpers.scripted import ScriptedSampler

RIGHT_SHARES = {"weak": 0.2, "strong": 0.8}
PROBLEMS = [
    {"id": f"p{n}", "problem": f"x = {n % 10}", "answer": "7", "source": "even" if n % 2 == 0 else "odd"}
    for n in range(6)
]


class Evaluations:
    """`models`: name -> path. Calling it evaluates; `requests`: what was sampled, (model's name, key, request)."""

    def __init__(self, folder, checkpoint, monkeypatch):
        self.folder, self.requests, self.started = folder, [], []
        self.stop_after = None  # requests, after which the evaluation is interrupted
        self.logprob_of = None  # request -> log-prob of its response; by default all are 0
        self.models = {name: str(shutil.copytree(checkpoint, folder / name)) for name in RIGHT_SHARES}
        for index, path in enumerate(self.models.values()):  # models that differ
            weights = Path(path) / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + bytes([index]))
        write_jsonl(folder / "problems.jsonl", PROBLEMS)
        tokenizer = load_tokenizer(str(checkpoint))

        def open_sampler(backend, model_path, config, **options):
            name = next(name for name, path in self.models.items() if path == model_path)
            self.started.append(name)
            sampler = ScriptedSampler(SimpleNamespace(tokenizer=tokenizer), right_share=RIGHT_SHARES[name])
            submit = sampler.submit

            def record(key, request):
                if len(self.requests) == self.stop_after:
                    raise KeyboardInterrupt
                self.requests.append((name, key, request))
                submit(key, request)

            sampler.submit = record
            if self.logprob_of is not None:
                sample = sampler._sample
                sampler._sample = lambda request: replace(
                    sample(request), logprobs=[self.logprob_of(request) / 8] * 8
                )
            return sampler

        monkeypatch.setattr("srt.sampling.from_config.open_sampler", open_sampler)

    def __call__(self, *arguments, out="out"):
        """The evaluation.json; the arguments are models and knobs."""
        self.requests.clear()
        self.started.clear()
        evaluate(
            [
                f"dataset={self.folder / 'problems.jsonl'}",
                "sampler=transformers",
                f"output_dir={self.folder / out}",
                "max_tokens=50",
                "num_samples=4",
                "grading_workers=1",
                "prompt_suffix=",
                *arguments,
            ]
        )
        return read_json(self.folder / out / "evaluation.json")


@pytest.fixture
def evaluations(tmp_path, tiny_checkpoint, monkeypatch):
    return Evaluations(tmp_path, tiny_checkpoint, monkeypatch)
