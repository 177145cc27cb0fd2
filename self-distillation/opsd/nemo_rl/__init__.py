"""Phase 2 on NVIDIA's NeMo-RL v0.7.0: an overlay of it, for several GPUs and nodes.

What NeMo-RL does: Ray cluster and worker groups, vLLM generation beside the trainer, the refresh of vLLM's
weights, sharded models (FSDP2 with tensor parallelism, or Megatron-Core), checkpoints. What is ours: the loop
(engine.py), the update inside the policy workers (updates.py), the verifier as an environment, and the rows and
the KL, which are the very same functions as in the local engine.

    engine.py        the algorithm, in the driver            updates.py      the step on each GPU that trains
    trainer.py       the driver's hand on the GPUs           weights.py      the teacher in the student's place
    rollouts.py      its vLLM engines as a sampler           offload.py      on and off the GPU
    environment.py   the verifier as its environment         vllm_worker.py  seeds for each request
    plan.py          pairs -> micro-batches of every GPU     hf_folder.py    the student for everybody else
    settings.py      our knobs -> its configuration          schedule.py     learning rate
    choice.py        which engine and backend, and why       runtime.py      paths, registry, Ray

What differs between its two training backends:

    TRAINER_BACKEND                         dtensor          megatron
    the process on each GPU that trains     worker.py        megatron_worker.py
    gradients, optimizer, schedule          dtensor_step.py  megatron_step.py
    a model up to its LM head               at_head.py       at_output_layer.py
    the section of its configuration        settings.py      megatron_settings.py

Only engine.py, trainer.py, rollouts.py, environment.py and the three workers import NeMo-RL, and only the three
Megatron files that run on the GPU import Megatron.
"""
