"""Phase 2 on NVIDIA's NeMo-RL v0.7.0: an overlay of it, for several GPUs and nodes.

What NeMo-RL does: Ray cluster and worker groups, vLLM generation beside the trainer, the refresh of vLLM's
weights, FSDP2 and tensor-parallel models, sharded checkpoints. What is ours: the loop (engine.py), the update inside the
policy workers (updates.py, worker.py), the verifier as an environment, and the rows and the KL, which are the very
same functions as in the local engine.

    engine.py        the algorithm, in the driver            settings.py   our knobs -> NeMo-RL's configuration
    rollouts.py      its vLLM engines as a sampler           schedule.py   learning rate
    environment.py   the verifier as its environment         runtime.py    finding NeMo-RL, starting Ray
    plan.py          pairs -> micro-batches of every GPU     hf_folder.py  the student as a Hugging Face folder
    at_head.py       a model up to its LM head               choice.py     ENGINE=auto: which engine, and why

Only engine.py, worker.py, environment.py, rollouts.py and vllm_worker.py import NeMo-RL.
"""
