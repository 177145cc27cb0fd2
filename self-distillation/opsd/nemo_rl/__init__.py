"""Phase 2 on NVIDIA's NeMo-RL v0.7.0: an overlay of it, for several GPUs and nodes.

What NeMo-RL does: Ray cluster and worker groups, vLLM generation beside the trainer, the refresh of vLLM's
weights, FSDP2 and tensor-parallel models, sharded checkpoints. What is ours: the loop (engine.py), the update
inside the policy workers (updates.py, worker.py), the verifier as an environment, and the rows and the KL, which
are the very same functions as in the local engine.

    engine.py        the algorithm, in the driver            worker.py       the process on each GPU that trains
    trainer.py       the driver's hand on the GPUs           updates.py      the step in it
    rollouts.py      its vLLM engines as a sampler           at_head.py      a model up to its LM head
    environment.py   the verifier as its environment         vllm_worker.py  seeds for each request
    plan.py          pairs -> micro-batches of every GPU     hf_folder.py    the student for everybody else
    settings.py      our knobs -> its configuration          schedule.py     learning rate
    choice.py        ENGINE=auto: which engine, and why      runtime.py      paths, registry, Ray

Only engine.py, trainer.py, rollouts.py, environment.py, worker.py and vllm_worker.py import NeMo-RL.
"""
