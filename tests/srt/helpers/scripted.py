"""A sampler for tests of the collector: its samples depend on the seeds only, their order does not."""

import random

from srt.sampling.base import Sample


class ScriptedSampler:
    """Samples depend on the seed of the request only; the order in which they finish is random."""

    def __init__(self, layout, order=0, right_share=0.4, truncated_share=0.0, loop_share=0.0, variety=10):
        self.layout, self.order = layout, random.Random(order)
        self.right_share, self.truncated_share = right_share, truncated_share
        self.loop_share, self.variety = loop_share, variety
        self.waiting, self.requests, self.most_waiting = [], [], 0

    @property
    def pending(self):
        return len(self.waiting)

    def submit(self, key, request):
        self.waiting.append((key, request))
        self.requests.append((key, request))
        self.most_waiting = max(self.most_waiting, len({key[0] for key, _ in self.waiting}))

    def close(self):
        self.waiting.clear()

    def poll(self):
        self.order.shuffle(self.waiting)
        count = self.order.randint(0, len(self.waiting))
        finished, self.waiting = self.waiting[:count], self.waiting[count:]
        return [(key, self._sample(request)) for key, request in finished]

    def _sample(self, request):
        rng = random.Random(request.seed)
        answer = 7 if rng.random() < self.right_share else 8
        ids = self.layout.tokenizer.encode(f"A 1 + {rng.randrange(self.variety)}\n\\boxed{{{answer}}}")
        if rng.random() < self.loop_share:
            ids = ids + self.layout.tokenizer.encode(" B 1.") * 30
        if rng.random() < self.truncated_share:
            return Sample(ids, "length", [0.0] * len(ids))
        return Sample([*ids, 2], "stop", [0.0] * (len(ids) + 1))
